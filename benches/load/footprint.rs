//! How large, how fast up: the binary, memory, starts, a million keys.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;

use super::Run;
use super::drive::{count, median};
use super::fill::Memory;
use super::machine;
use super::report::{Report, number};
use super::servers::{Home, Redis};

/// Measures and reports it.
pub(crate) fn footprint(run: &Run, report: &mut Report) -> anyhow::Result<()> {
    let mut text = "| what | measured |\n|---|---|\n".to_owned();
    let mut row = |what: &str, measured: &str| writeln!(text, "| {what} | {measured} |");

    let size = megabytes(std::fs::metadata(&run.programs.keyclasp)?.len());
    report.target("Binary", "≤ 20 MB", format!("{size:.1} MB"), size <= 20.0);
    row("binary, as `cargo build --release` leaves it", &format!("{size:.1} MB"))?;

    let home = Home::init(&run.programs, &run.scratch, "small", None)?;
    // The first start makes the store.
    let (server, first) = home.serve(run.cores.server)?;
    server.process.stop()?;
    let (mut starts, mut resident) = (Vec::new(), Vec::new());
    for _ in 0..run.starts {
        let (server, took) = home.serve(run.cores.server)?;
        starts.push(millis(took));
        std::thread::sleep(Duration::from_millis(500));
        resident.push(megabytes(machine::resident(server.process.id())?));
        server.process.stop()?;
    }
    let (start, slowest) = (median(starts.iter().copied()), starts.iter().copied().fold(0.0, f64::max));
    let resident = median(resident);
    report.target("Start, embedded: from spawn to ready", "≤ 100 ms", format!("{start:.0} ms"), start <= 100.0);
    report.target("Memory when idle, embedded (RSS)", "≤ 15 MB", format!("{resident:.1} MB"), resident <= 15.0);
    row("first start, with a new store", &format!("{:.0} ms", millis(first)))?;
    row(&format!("start, median of {}", run.starts), &format!("{start:.1} ms (slowest {slowest:.1} ms)"))?;
    row("RSS when idle, one worker, half a second after it was ready", &format!("{resident:.1} MB"))?;

    let home = Home::init(&run.programs, &run.scratch, "full", None)?;
    let keys = number(count(u64::try_from(run.keys)?));
    let filled = Command::new(&run.programs.load)
        .args(["fill-embedded", &home.dir().display().to_string(), &run.keys.to_string()])
        .output()?;
    ensure!(filled.status.success(), "fill-embedded: {}", String::from_utf8_lossy(&filled.stderr));
    let (mut clean, mut killed, mut resident) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..run.repetitions {
        let (server, took) = home.serve(run.cores.server)?;
        clean.push(millis(took));
        resident.push(megabytes(machine::resident(server.process.id())?));
        server.process.kill()?;
        let (server, took) = home.serve(run.cores.server)?;
        killed.push(millis(took));
        server.process.stop()?;
    }
    let (clean, killed) = (median(clean), median(killed));
    let slower = clean.max(killed);
    let measured = format!("{clean:.0} ms after SIGTERM, {killed:.0} ms after SIGKILL");
    report.target(
        &format!("Reopen with {keys} keys: from spawn to ready"),
        "≤ 1 s",
        measured.clone(),
        slower <= 1000.0,
    );
    row(&format!("{keys} keys, embedded: reopen"), &measured)?;
    row(&format!("{keys} keys, embedded: RSS when ready"), &format!("{:.1} MB", median(resident)))?;
    row(
        &format!("{keys} keys, embedded: file"),
        &format!("{:.0} MB", megabytes(std::fs::metadata(home.dir().join("keyclasp.redb"))?.len())),
    )?;

    let redis = Redis::start(&run.scratch, run.cores.server)?;
    let filled = Command::new(&run.programs.load).args(["fill-redis", &redis.url, &run.keys.to_string()]).output()?;
    ensure!(filled.status.success(), "fill-redis: {}", String::from_utf8_lossy(&filled.stderr));
    let memory = Memory::parse(&String::from_utf8(filled.stdout)?)?;
    redis.process.stop()?;
    let measured = format!("{:.0} B", memory.used);
    report.target(&format!("Redis memory at {keys} keys"), "≤ 600 B a key", measured, memory.used <= 600.0);
    row(
        &format!("{keys} keys, Redis: `used_memory` a key"),
        &format!(
            "{:.0} B (dataset {:.0} B), of which the record itself {:.0} B",
            memory.used, memory.dataset, memory.record
        ),
    )?;
    row("taken off: the log's stream", &format!("{:.1} MB, whatever the number of keys", megabytes(memory.log)))?;
    report.section("Footprint", INTRODUCTION, &text);
    Ok(())
}

const INTRODUCTION: &str = "\
The million keys are written through the library in commits of 256: ten keys an owner, two scopes,
an end after a year, both indexes, no audit events. Memory of Redis is what `used_memory` grew by, less
`MEMORY USAGE` of the log's stream, over the number of keys.";

fn megabytes(bytes: u64) -> f64 {
    count(bytes) / 1e6
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
