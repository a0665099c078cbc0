//! The machine: its cores, and what `/proc` says about it and about processes.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Which core the servers run on, and which one the client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cores {
    pub(crate) server: usize,
    pub(crate) client: usize,
}

impl Cores {
    /// The first two cores that this process may use.
    pub(crate) fn pick() -> anyhow::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let (first, second) = (cores.next(), cores.next());
        ensure!(second.is_some(), "two cores are needed: one for the server, one for the client");
        Ok(Self { client: first.unwrap_or_default(), server: second.unwrap_or_default() })
    }
}

/// Keeps this thread, and what it starts, on `core`.
pub(crate) fn pin(core: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on core {core} alone"))
}

/// The machine in a line.
pub(crate) fn describe() -> anyhow::Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let model = field(&cpuinfo, "model name").unwrap_or("unknown processor");
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let virtual_machine = if cpuinfo.contains("hypervisor") { ", in a virtual machine" } else { "" };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!("{cores} cores of {model}{virtual_machine}, Linux {}", kernel.trim()))
}

/// How busy the machine is with other things: runnable threads, averaged over a minute.
pub(crate) fn load_average() -> anyhow::Result<String> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

/// CPU time that all threads of a process have used, ended ones included.
pub(crate) fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name (field 2) may hold anything, parentheses included; what follows are fields 3 and on,
    // of which 14 and 15 are utime and stime.
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat has another form")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3).and_then(|ticks| ticks.parse::<u64>().ok());
    let used = ticks(14).zip(ticks(15)).map(|(user, system)| user + system);
    // The kernel's unit for user space is 1/100 s on every architecture that runs this.
    Ok(Duration::from_millis(10 * used.context("/proc/PID/stat has another form")?))
}

/// Memory of a process that is in RAM, in bytes.
pub(crate) fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = field(&status, "VmRSS").and_then(|text| text.trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kib.context("/proc/PID/status has no VmRSS")? * 1024)
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim())
}
