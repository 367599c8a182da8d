//! The position at which a server's recovery starts, and the next transaction id there: from
//! `pg_control`, or from `backup_label` and the WAL.
//!
//! `pg_rewind` and `pg_basebackup` leave a `backup_label`: recovery then starts from its
//! checkpoint, while `pg_control` is a later copy of the source's. The layout is that of Postgres
//! 15 to 18 (`pg_control.h`, `xlogrecord.h`, `xlog_internal.h`), in the machine's own byte order.

use crate::wal::Lsn;

/// The content of `backup_label`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// The LSN from which WAL is replayed.
    pub redo: u64,
    /// The LSN of the checkpoint record.
    pub checkpoint: u64,
}

/// The sizes of WAL files and pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The size of a file in bytes.
    pub segment: u64,
    /// The size of a page in bytes.
    pub page: u64,
}

/// This many bytes of a WAL file contain a whole checkpoint record at their beginning.
pub const ENOUGH: u64 = 512;

/// `nextXid` of the last checkpoint, from the content of `global/pg_control`; None unless its version
/// is 15 to 18.
pub fn control_next_xid(control: &[u8]) -> Option<u64> {
    let known = matches!(number32(control, 8)?, 1300..=1800);
    number64(control, 64).filter(|_| known)
}

/// Parses `backup_label`.
pub fn label(text: &str) -> Option<Label> {
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .map(|Lsn(lsn)| lsn)
    };
    Some(Label {
        redo: value("START WAL LOCATION: ")?,
        checkpoint: value("CHECKPOINT LOCATION: ")?,
    })
}

/// The layout in the header of a WAL file's first page.
pub fn layout(first_page: &[u8]) -> Option<Layout> {
    let layout = Layout {
        segment: number32(first_page, 32)?.into(),
        page: number32(first_page, 36)?.into(),
    };
    (layout.segment.is_power_of_two()
        && layout.page.is_power_of_two()
        && layout.page >= 1024
        && layout.segment >= layout.page)
        .then_some(layout)
}

/// The timeline of a WAL file, and its number from 0.
pub fn segment(name: &str, layout: Layout) -> Option<(u32, u64)> {
    if name.len() != 24 || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let part = |range: std::ops::Range<usize>| u32::from_str_radix(name.get(range)?, 16).ok();
    let (timeline, high, low) = (part(0..8)?, part(8..16)?, part(16..24)?);
    Some((timeline, u64::from(high) * ((1 << 32) / layout.segment) + u64::from(low)))
}

/// `nextXid` of the checkpoint record of a label. `raw` is the WAL from [`Label::checkpoint`] on, as
/// in the files. None for another record, or a checkpoint with another redo position.
pub fn checkpoint_next_xid(raw: &[u8], label: Label, layout: Layout) -> Option<u64> {
    let record = without_page_headers(raw, label.checkpoint, layout);
    // The header: length, transaction id, previous record, info, resource manager, checksum. Then
    // the block id of the data and its length.
    let (what, of) = (record.get(16)? & 0xF0, *record.get(17)?);
    let data = record.get(26..)?;
    let is_checkpoint = of == 0
        && matches!(what, 0x00 | 0x10)
        && *record.get(24)? == 255
        && number64(data, 0)? == label.redo;
    number64(data, 24).filter(|xid| is_checkpoint && *xid > 2)
}

fn without_page_headers(raw: &[u8], from: u64, layout: Layout) -> Vec<u8> {
    let header = |at: u64| if at.is_multiple_of(layout.segment) { 40 } else { 24 };
    let (mut kept, mut at, mut rest) = (Vec::new(), from, raw);
    while !rest.is_empty() {
        let skipped = if at.is_multiple_of(layout.page) { header(at) } else { 0 };
        let page =
            usize::try_from(layout.page - at % layout.page).unwrap_or(usize::MAX).min(rest.len());
        let (now, later) = rest.split_at(page);
        kept.extend_from_slice(now.get(skipped..).unwrap_or_default());
        (at, rest) = (at + page as u64, later);
    }
    kept
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn number64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LAYOUT: Layout = Layout { segment: 16 << 20, page: 8192 };

    /// A checkpoint record as `XLogInsert` writes it.
    fn record(info: u8, redo: u64, next_xid: u64) -> Vec<u8> {
        let mut bytes = vec![0; 26 + 88];
        bytes[0] = 26 + 88;
        (bytes[16], bytes[17]) = (info, 0);
        (bytes[24], bytes[25]) = (255, 88);
        bytes[26..34].copy_from_slice(&redo.to_ne_bytes());
        bytes[50..58].copy_from_slice(&next_xid.to_ne_bytes());
        bytes
    }

    /// The record in a file, with the headers of the pages that it lies on.
    fn on_pages(record: &[u8], from: u64) -> Vec<u8> {
        let mut raw = Vec::new();
        for byte in record {
            let at = from + raw.len() as u64;
            if at.is_multiple_of(LAYOUT.page) {
                raw.extend(vec![0xEE; if at.is_multiple_of(LAYOUT.segment) { 40 } else { 24 }]);
            }
            raw.push(*byte);
        }
        raw.extend([0xEE; 40]);
        raw
    }

    #[test]
    fn reads_a_label() {
        let text = "START WAL LOCATION: 2/8000028 (file 000000010000000200000080)\nCHECKPOINT LOCATION: 2/8000080\nBACKUP METHOD: pg_rewind\n";
        assert_eq!(label(text), Some(Label { redo: 0x2_0800_0028, checkpoint: 0x2_0800_0080 }));
        for broken in [
            "",
            "START WAL LOCATION: 2/8000028\n",
            "START WAL LOCATION: x/1\nCHECKPOINT LOCATION: 1/1\n",
        ] {
            assert_eq!(label(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_file_name_is_a_position() {
        assert_eq!(segment("0000000300000002000000A1", LAYOUT), Some((3, 2 * 256 + 0xA1)));
        assert_eq!(
            segment("00000003000000020000000A", Layout { segment: 256 << 20, ..LAYOUT }),
            Some((3, 2 * 16 + 10))
        );
        for other in ["0000000300000002000000A1.partial", "00000003.history", "archive_status"] {
            assert_eq!(segment(other, LAYOUT), None);
        }
    }

    #[test]
    fn ignores_a_control_file_of_another_version() {
        let mut control = vec![0; 512];
        control[64..72].copy_from_slice(&7_u64.to_ne_bytes());
        assert_eq!(control_next_xid(&control), None);
        control[8..12].copy_from_slice(&1700_u32.to_ne_bytes());
        assert_eq!(control_next_xid(&control), Some(7));
        assert_eq!(control_next_xid(&control[..60]), None);
    }

    #[test]
    fn the_first_page_states_the_layout() {
        let mut page = vec![0; 40];
        assert_eq!(layout(&page), None);
        page[32..36].copy_from_slice(&(16_u32 << 20).to_ne_bytes());
        page[36..40].copy_from_slice(&8192_u32.to_ne_bytes());
        assert_eq!(layout(&page), Some(LAYOUT));
        assert_eq!(layout(&page[..39]), None);
    }

    proptest! {
        /// Also across the end of a page or a file.
        #[test]
        fn reads_a_checkpoint_at_any_position(
            near in prop::sample::select(vec![0_u64, 8192, 16 << 20, (16 << 20) + 8192]),
            before in 0_u64..20,
            online in any::<bool>(),
            redo in any::<u64>(),
            xid in 3_u64..,
        ) {
            // A page begins with its header.
            let checkpoint = (1_u64 << 32) + near - before * 8 + if before == 0 { 40 } else { 0 };
            let label = Label { redo, checkpoint };
            let raw = on_pages(&record(if online { 0x10 } else { 0 }, redo, xid), checkpoint);
            prop_assert_eq!(checkpoint_next_xid(&raw, label, LAYOUT), Some(xid));
            prop_assert_eq!(checkpoint_next_xid(&raw, Label { redo: redo ^ 8, ..label }, LAYOUT), None);
            prop_assert_eq!(checkpoint_next_xid(&raw[..40], label, LAYOUT), None);
            let other = on_pages(&record(0x30, redo, xid), checkpoint);
            prop_assert_eq!(checkpoint_next_xid(&other, label, LAYOUT), None, "another kind of record");
        }
    }
}
