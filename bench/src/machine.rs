//! One line about the machine, which every result needs.

use std::fs;

/// Cores, memory, kernel and load.
pub fn line() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = field(&read("/proc/meminfo"), "MemTotal:")
        .and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or(0)
        >> 20;
    let load = read("/proc/loadavg");
    let load = load.split_whitespace().next().unwrap_or("?").to_owned();
    format!(
        "{cores} cores, {memory} GiB, Linux {}, load {load} at the start",
        read("/proc/sys/kernel/osrelease").trim()
    )
}

/// The first word after `name` in a file with lines like `Name:  value kB`.
pub fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next())
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_a_field_of_a_proc_file() {
        assert_eq!(
            super::field("MemFree:  1 kB\nMemTotal:    25165824 kB\n", "MemTotal:"),
            Some("25165824")
        );
        assert_eq!(super::field("MemFree:  1 kB\n", "MemTotal:"), None);
    }
}
