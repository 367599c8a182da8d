//! The summary that is printed at the end.

use std::fmt::Write as _;

use crate::scenario::ScenarioVerdict;

/// The summary: each scenario with its duration, the measurements, and the result line that `test`
/// reads.
pub fn summary(verdicts: &[ScenarioVerdict]) -> String {
    let mut text = "scenarios:\n".to_owned();
    for ScenarioVerdict { name, took, result, traces } in verdicts {
        let outcome = if result.is_ok() { "ok" } else { "FAILED" };
        let _ = writeln!(text, "  {name:<24} {outcome:<7} {:>6.1} s", took.as_secs_f64());
        if let Err(failure) = result {
            let _ = writeln!(text, "    {failure}");
        }
        if let Some(folder) = traces {
            let _ = writeln!(text, "    logs, events and resources: {}", folder.display());
        }
    }
    let figures: Vec<_> =
        verdicts.iter().filter_map(|v| v.result.as_ref().ok()).flatten().collect();
    if !figures.is_empty() {
        text.push_str("measurements:\n");
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
    fn prints_scenarios_measurements_and_the_result() {
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
    logs, events and resources: /traces
measurements:
  a thing: 3 ms
test result: FAILED. 1 passed; 1 failed
";
        assert_eq!(summary(&[good, bad]), expected);
    }
}
