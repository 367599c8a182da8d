//! Assembling records from Postgres' output, wherever it is cut.

use proptest::prelude::*;

use super::*;

const SAMPLE: &str = "pgraft\t1700000000.123\t41\t00000\tpostmaster\tLOG:  starting PostgreSQL
pgraft\t1700000000.200\t52\t23505\tclient backend\tapp\tshop\tERROR:  duplicate key value violates unique constraint \"t_pkey\"
pgraft\t1700000000.200\t52\t23505\tclient backend\tapp\tshop\tDETAIL:  Key (id)=(1) already exists.
pgraft\t1700000000.200\t52\t23505\tclient backend\tapp\tshop\tSTATEMENT:  insert into t
\tvalues (1)
\tpgraft\t1700000000.200\t1\t00000\tpostmaster\tLOG:  forged
output of a library
pgraft\t1700000000.300\t41\t00000\tpostmaster\tLOG:  multi
\tline
";

fn all(chunks: &[&[u8]]) -> Vec<LogRecord> {
    let mut assembler = Assembler::default();
    let mut records: Vec<LogRecord> = chunks.iter().flat_map(|c| assembler.feed(c)).collect();
    records.extend(assembler.close());
    records
}

#[test]
fn a_message_is_one_record() {
    let lines: Vec<String> =
        all(&[SAMPLE.as_bytes()]).into_iter().map(|r| json(r, "postgres").to_string()).collect();
    let lines: Vec<&str> = lines
        .iter()
        .map(|l| {
            if l.contains("library") {
                "(a line without a prefix, with the current time)"
            } else {
                l
            }
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn a_very_long_line_is_split() {
    let mut assembler = Assembler::default();
    let long = vec![b'x'; MAX_LINE / 2];
    let mut got: usize = (0..5).flat_map(|_| assembler.feed(&long)).map(|r| r.msg.len()).sum();
    got += assembler.close().iter().map(|r| r.msg.len()).sum::<usize>();
    assert_eq!(got, long.len() * 5);
}

proptest! {
    #[test]
    fn the_records_do_not_depend_on_where_the_output_is_cut(at in 0..SAMPLE.len()) {
        let (a, b) = SAMPLE.as_bytes().split_at(at);
        prop_assert_eq!(all(&[a, b]), all(&[SAMPLE.as_bytes()]));
    }

    #[test]
    fn no_line_is_lost(lines in proptest::collection::vec("[a-z\t:]{0,20}", 0..20)) {
        let text: String = lines.iter().flat_map(|l| [l.as_str(), "\n"]).collect();
        let got: Vec<String> = all(&[text.as_bytes()]).into_iter().flat_map(|r| r.msg.split('\n').map(str::to_owned).collect::<Vec<_>>()).collect();
        let want: Vec<String> = lines.iter().map(|l| l.strip_prefix('\t').unwrap_or(l).to_owned()).collect();
        prop_assert_eq!(got, want);
    }
}
