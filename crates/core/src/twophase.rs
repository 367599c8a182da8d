//! Which two-phase state files recovery must not find.
//!
//! Recovery loads every file of `pg_twophase` before it reads WAL, and discards those whose
//! transaction is not older than `nextXid` of the checkpoint that it starts from: the PREPARE
//! record is in the WAL behind that checkpoint. Postgres 17 and 18 compute the wrong name for such
//! a file, leave it where it is, and then skip the PREPARE record, since the file exists
//! (`twophase.c`: `ProcessTwoPhaseBuffer`, `AdjustToFullTransactionId`, `PrepareRedoAdd`). The
//! prepared transaction and its locks are lost; past the point of consistency the skipped record is
//! a FATAL error and the server never starts. Such files are there after `pg_rewind`, after a base
//! backup during which a checkpoint wrote one, and after a crash between a checkpoint's two-phase
//! files and its control file.
//!
//! Removing them first is sound: their transaction got its id after the checkpoint had taken
//! `nextXid`, hence after its redo position, so the PREPARE record is replayed. A file of an older
//! transaction stays: its PREPARE record may lie before the redo position, and then nothing else
//! has it. Where it lies behind, Postgres finds the file in its place and skips the record: the
//! file and the record are the same bytes.

/// The files of `pg_twophase` whose transaction is not older than `next_xid`, a full transaction
/// id.
pub fn not_older<'a>(files: &[&'a str], next_xid: u64) -> Vec<&'a str> {
    files.iter().filter(|name| is_not_older(name, next_xid)).copied().collect()
}

fn is_not_older(name: &str, next_xid: u64) -> bool {
    if !name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F')) {
        return false;
    }
    match name.len() {
        // Since Postgres 17 the name includes the epoch.
        16 => u64::from_str_radix(name, 16).is_ok_and(|xid| xid >= next_xid),
        // `TransactionIdFollowsOrEquals`: half of the ids are ahead. The epoch of `next_xid` is
        // ignored.
        8 => u32::from_str_radix(name, 16)
            .is_ok_and(|xid| xid.wrapping_sub(low(next_xid)).cast_signed() >= 0),
        _ => false,
    }
}

fn low(xid: u64) -> u32 {
    u32::try_from(xid & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn by_name() {
        let nothing: [&str; 0] = [];
        assert_eq!(
            not_older(&["00000000000002E3", "00000000000002E4", "00000000000002E5"], 0x2E4),
            ["00000000000002E4", "00000000000002E5"]
        );
        assert_eq!(not_older(&["000002E3", "000002E4"], 0x2E4), ["000002E4"]);
        assert_eq!(
            not_older(&["000002E3", "000002E4"], 0x7_0000_02E4),
            ["000002E4"],
            "the epoch is not in the name"
        );
        assert_eq!(
            not_older(&["FFFFFFFF000002E4"], 0x2E4),
            ["FFFFFFFF000002E4"],
            "the name that Postgres 17 looks for"
        );
        // The ids begin anew while the checkpoint's next id is still before the turn, and the other
        // way round.
        assert_eq!(
            not_older(&["0000000100000003", "00000000FFFFFFF0"], 0xFFFF_FF00),
            ["0000000100000003", "00000000FFFFFFF0"]
        );
        assert_eq!(not_older(&["00000003", "FFFFFEFF"], 0xFFFF_FF00), ["00000003"]);
        assert_eq!(
            not_older(&["00000000FFFFFFF0", "0000000100000003"], 0x1_0000_0003),
            ["0000000100000003"]
        );
        assert_eq!(not_older(&["FFFFFFF0"], 0x1_0000_0003), nothing);
        assert_eq!(
            not_older(&["00000000000002e4", "2E4", "000002E4.tmp", "+00002E4", ""], 3),
            nothing,
            "Postgres reads none of these"
        );
    }

    proptest! {
        /// A server goes on from `next`: some transactions got their ids before the checkpoint took
        /// it, within the two billion that can be prepared at once, others after it. By either kind
        /// of name only the latter go.
        #[test]
        fn keeps_what_was_prepared_before_the_checkpoint(
            next in 3_u64..(5 << 32),
            distances in prop::collection::vec(-0x7FFF_0000_i64..0x7FFF_0000, 0..20),
        ) {
            let xids: Vec<u64> = distances.iter().filter_map(|d| next.checked_add_signed(*d)).collect();
            let after: Vec<u64> = xids.iter().copied().filter(|xid| *xid >= next).collect();
            for width in [8, 16] {
                let name = |xid: &u64| if width == 16 { format!("{xid:016X}") } else { format!("{:08X}", low(*xid)) };
                let names: Vec<String> = xids.iter().map(name).collect();
                let want: Vec<String> = after.iter().map(name).collect();
                let files: Vec<&str> = names.iter().map(String::as_str).collect();
                prop_assert_eq!(not_older(&files, next), want);
            }
        }
    }
}
