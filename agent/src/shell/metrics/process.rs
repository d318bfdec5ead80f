//! What the kernel says of this process: processor time, memory, descriptors, when it started.

/// Ticks of `/proc` per second, on every architecture that Kubernetes runs on.
const TICKS: u32 = 100;

/// Figures of this process, as of now.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Process {
    /// Seconds on a processor, in both modes.
    pub(crate) cpu_seconds: f64,
    /// When it started, in seconds since 1970.
    pub(crate) started: u64,
    /// Octets of memory that are resident.
    pub(crate) memory: u64,
    /// Open file descriptors.
    pub(crate) descriptors: u64,
}

impl Process {
    /// Reads `/proc`; nothing where it cannot be read.
    pub(crate) fn read() -> Option<Self> {
        let descriptors = std::fs::read_dir("/proc/self/fd").ok()?.count();
        let process = Self::parse(
            &std::fs::read_to_string("/proc/self/stat").ok()?,
            &std::fs::read_to_string("/proc/self/status").ok()?,
            &std::fs::read_to_string("/proc/stat").ok()?,
        )?;
        Some(Self { descriptors: u64::try_from(descriptors).unwrap_or(u64::MAX), ..process })
    }

    /// `stat` and `status` are those of the process, `machine` is `/proc/stat`.
    fn parse(stat: &str, status: &str, machine: &str) -> Option<Self> {
        // The program's name stands in parentheses and may hold anything, so the rest begins behind the last one.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        let boot: u64 = machine.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kibibytes: u64 = resident.trim().strip_suffix(" kB")?.parse().ok()?;
        let spent = u32::try_from(number(11)?.checked_add(number(12)?)?).ok()?;
        Some(Self {
            cpu_seconds: f64::from(spent) / f64::from(TICKS),
            started: boot.checked_add(number(19)? / u64::from(TICKS))?,
            memory: kibibytes.checked_mul(1024)?,
            descriptors: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "5 (a b) c) S 1 5 5 0 -1 0 0 0 0 0 150 50 0 0 20 0 4 0 1000 9000000 250 1 1 1";

    #[test]
    fn the_figures_are_read_behind_a_name_with_parentheses() {
        let process =
            Process::parse(OWN, "VmSize: 7 kB\nVmRSS:\t   1000 kB\n", "cpu 1 2\nbtime 1700000000\n");
        let expected =
            Process { cpu_seconds: 2.0, started: 1_700_000_010, memory: 1_024_000, descriptors: 0 };
        assert_eq!(process, Some(expected));
    }

    #[test]
    fn this_process_has_figures() {
        let process = Process::read().expect("/proc");
        assert!(
            process.memory > 0 && process.descriptors > 0 && process.started > 1_700_000_000,
            "{process:?}"
        );
    }
}
