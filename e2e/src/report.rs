//! What is printed at the end.

use std::fmt::Write as _;

use crate::scenario::ScenarioVerdict;

/// The summary: each scenario with its time, what was measured, and the line that CI counts by.
pub fn summary(verdicts: &[ScenarioVerdict]) -> String {
    let mut text = "scenarios:\n".to_owned();
    for ScenarioVerdict { name, took, result, traces } in verdicts {
        let end = if result.is_ok() { "ok" } else { "FAILED" };
        let _ = writeln!(text, "  {name:<24} {end:<7} {:>6.1} s", took.as_secs_f64());
        if let Err(failure) = result {
            let _ = writeln!(text, "    {failure}");
        }
        if let Some(folder) = traces {
            let _ = writeln!(text, "    its logs, events and resources: {}", folder.display());
        }
    }
    let figures: Vec<_> =
        verdicts.iter().filter_map(|v| v.result.as_ref().ok()).flatten().collect();
    if !figures.is_empty() {
        text.push_str("measured:\n");
    }
    for figure in figures {
        let _ = writeln!(text, "  {}: {}", figure.what, figure.value);
    }
    let failed = verdicts.iter().filter(|v| v.result.is_err()).count();
    let word = if failed == 0 { "ok" } else { "FAILED" };
    let _ =
        writeln!(text, "test result: {word}. {} passed; {failed} failed", verdicts.len() - failed);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::E2eFailure;
    use crate::scenario::ReportedFigure;
    use std::time::Duration;

    #[test]
    fn the_last_line_is_what_ci_counts() {
        let good = ScenarioVerdict {
            name: "quickstart",
            took: Duration::from_millis(12_340),
            result: Ok(vec![ReportedFigure { what: "a thing".into(), value: "3 ms".into() }]),
            traces: None,
        };
        let bad = ScenarioVerdict {
            name: "recovery",
            took: Duration::from_mins(1),
            result: Err(E2eFailure::Wrong("no".into())),
            traces: Some("/traces".into()),
        };
        let expected = "scenarios:
  quickstart               ok        12.3 s
  recovery                 FAILED    60.0 s
    no
    its logs, events and resources: /traces
measured:
  a thing: 3 ms
test result: FAILED. 1 passed; 1 failed
";
        assert_eq!(summary(&[good, bad]), expected);
    }
}
