//! The hit path without a wire: what a check costs that is answered from memory, with few keys and with many,
//! and what a key in memory takes.

use std::fmt::Write as _;
use std::process::Command;
use std::sync::Barrier;

use anyhow::{Context as _, anyhow, ensure};
use keyclasp::clock::{Clock as _, SystemClock};
use keyclasp::random::{self, SeededEntropy};

use super::Run;
use super::drive::{count, median};
use super::machine;
use super::made::{Made, Mode};
use super::report::{Report, number};

/// Room for all keys that are asked for, however many.
const AMPLE: u64 = 16 << 30;
/// What `cache.memory_mib` is by default.
const DEFAULT: u64 = 64 << 20;
/// Checks of one measurement.
const CHECKS: usize = 2_000_000;
/// Checks between two looks at the clock.
const BATCH: usize = 100_000;
/// Exponent of the Zipf distribution.
const EXPONENT: f64 = 1.0;

/// How many nanoseconds a check of one key takes that is answered from memory, made on each of these cores at
/// the same time: the median of batches, on the slowest core.
pub(crate) async fn hit(mode: Mode, cores: &[usize]) -> anyhow::Result<f64> {
    let made = Made::new(mode, 1, 1 << 20).await?;
    let text = made.texts.first().context("no key")?;
    made.check(text)?;
    let (reads, together) = (made.reads(), Barrier::new(cores.len()));
    let on = |core: usize| {
        machine::pin(core)?;
        let (clock, mut each) = (SystemClock::new(), Vec::new());
        together.wait();
        for _ in 0..CHECKS / BATCH {
            let begin = clock.elapsed();
            for _ in 0..BATCH {
                made.check(std::hint::black_box(text))?;
            }
            each.push(nanos(clock.elapsed() - begin, BATCH));
        }
        anyhow::Ok(median(each))
    };
    let medians = std::thread::scope(|scope| {
        let threads: Vec<_> = cores.iter().map(|core| scope.spawn(|| on(*core))).collect();
        let joined = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread died"))?);
        joined.collect::<anyhow::Result<Vec<f64>>>()
    })?;
    ensure!(made.reads() == reads, "a check was not answered from memory");
    Ok(medians.into_iter().fold(0.0, f64::max))
}

/// What many keys come to; as text, since a process of its own finds it out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Many {
    /// Nanoseconds of a check; share of checks that did not read the store.
    zipf: (f64, f64),
    uniform: (f64, f64),
    /// Growth of the process for each record held, in bytes.
    resident: f64,
    /// What a record weighs, as the cache counts.
    weighed: f64,
    held: f64,
}

impl Many {
    /// Measures in this process: `keys` keys with room for `room` bytes.
    pub(crate) async fn here(keys: usize, room: u64) -> anyhow::Result<Self> {
        let made = Made::new(Mode::Leased, keys, room).await?;
        let (zipf, uniform) = (zipf(keys)?, uniform(keys)?);
        let pid = std::process::id();
        let before = machine::resident(pid)?;
        // Each key once: reads, verifies, keeps.
        made.texts.iter().try_for_each(|text| made.check(text))?;
        let grown = count(machine::resident(pid)?.saturating_sub(before));
        let (records, bytes) = made.held()?;
        let resident = grown / count(records);
        Ok(Self {
            zipf: drawn(&made, &zipf)?,
            uniform: drawn(&made, &uniform)?,
            resident,
            weighed: count(bytes) / count(records),
            held: count(records),
        })
    }

    /// Its numbers.
    pub(crate) fn text(&self) -> String {
        let Self { zipf, uniform, resident, weighed, held } = self;
        format!("{} {} {} {} {resident} {weighed} {held}", zipf.0, zipf.1, uniform.0, uniform.1)
    }

    fn measure(run: &Run, keys: usize, room: u64) -> anyhow::Result<Self> {
        let text = outside(run, &["memory", &keys.to_string(), &room.to_string()])?;
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        match *numbers.as_slice() {
            [a, b, c, d, resident, weighed, held] => {
                Ok(Self { zipf: (a, b), uniform: (c, d), resident, weighed, held })
            }
            _ => anyhow::bail!("memory answered {text:?}"),
        }
    }
}

/// Checks of the keys that were drawn: nanoseconds of one, and the share of hits.
fn drawn(made: &Made, draws: &[u32]) -> anyhow::Result<(f64, f64)> {
    let (clock, mut each) = (SystemClock::new(), Vec::new());
    let reads = made.reads();
    for batch in draws.chunks(BATCH) {
        let begin = clock.elapsed();
        for draw in batch {
            made.check(made.texts.get(usize::try_from(*draw)?).context("no such key")?)?;
        }
        each.push(nanos(clock.elapsed() - begin, batch.len()));
    }
    let missed = count(made.reads() - reads) / count(u64::try_from(draws.len())?);
    Ok((median(each), 1.0 - missed))
}

/// Draws of keys that are all as likely.
fn uniform(keys: usize) -> anyhow::Result<Vec<u32>> {
    let keys = u64::try_from(keys)?;
    Ok(randoms()?
        .into_iter()
        .map(|random| u32::try_from((u64::from(random) * keys) >> 32).unwrap_or_default())
        .collect())
}

/// Draws of keys of which the n-th is as likely as 1/n^s.
fn zipf(keys: usize) -> anyhow::Result<Vec<u32>> {
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=u32::try_from(keys)?)
        .map(|rank| {
            sum += f64::from(rank).powf(-EXPONENT);
            sum
        })
        .collect();
    // Ranks are strewn over the keys, so that the likely ones do not lie beside each other.
    let (keys, stride) = (u64::try_from(keys)?, 7_919);
    let draws = randoms()?.into_iter().map(|random| {
        let place = f64::from(random) / f64::from(u32::MAX) * sum;
        let rank = u64::try_from(sums.partition_point(|sum| *sum < place))?.min(keys - 1);
        Ok(u32::try_from(rank * stride % keys)?)
    });
    draws.collect()
}

fn randoms() -> anyhow::Result<Vec<u32>> {
    let entropy = SeededEntropy::new(2);
    let mut randoms = Vec::with_capacity(CHECKS);
    while randoms.len() < CHECKS {
        let bytes: [u8; 4096] = random::bytes(&entropy)?;
        let (words, _) = bytes.as_chunks::<4>();
        randoms.extend(words.iter().map(|word| u32::from_le_bytes(*word)));
    }
    randoms.truncate(CHECKS);
    Ok(randoms)
}

fn nanos(took: std::time::Duration, checks: usize) -> f64 {
    took.as_secs_f64() * 1e9 / count(u64::try_from(checks).unwrap_or(u64::MAX))
}

/// What this program, run with `args` on the servers' core, prints.
fn outside(run: &Run, args: &[&str]) -> anyhow::Result<String> {
    let program = if args.is_empty() { &run.programs.allocations } else { &run.programs.load };
    let mut command = Command::new("taskset");
    // A thread that shall run on another core moves itself there.
    command.arg("-c").arg(run.cores.server.to_string()).arg(program).args(args);
    let output = command.output()?;
    ensure!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Measures and reports it.
pub(crate) fn memory(run: &Run, report: &mut Report) -> anyhow::Result<()> {
    let mut text = HITS.to_owned();
    let allocations = outside(run, &[])?;
    for (mode, allocations) in Mode::ALL.into_iter().zip(allocations.lines()) {
        let (one, other) = (run.cores.server.to_string(), run.cores.client.to_string());
        let hits = |cores: &[&str]| {
            let args = [&["hit", mode.name()], cores].concat();
            let times = (0..run.repetitions.min(5)).map(|_| anyhow::Ok(outside(run, &args)?.trim().parse()?));
            Ok::<_, anyhow::Error>(median(times.collect::<anyhow::Result<Vec<f64>>>()?))
        };
        let (nanos, two) = (hits(&[&one])?, hits(&[&one, &other])?);
        writeln!(text, "| {} | {nanos:.0} ns | {two:.0} ns | {allocations} |", mode.name())?;
        let what = format!("A hit alone, {}: digest, look-up, decision", mode.name());
        report.target(&what, "≤ 1 µs", format!("{:.2} µs", nanos / 1000.0), nanos <= 1000.0);
        let few = allocations.trim().parse::<u64>()? <= 2;
        report.target(&format!("{what}: allocations"), "≤ 2", allocations.to_owned(), few);
    }
    text += MANY;
    let mut first = None;
    let sizes = [run.keys / 100, run.keys / 10, run.keys];
    for (keys, room) in sizes.map(|keys| (keys, AMPLE)).into_iter().chain([(run.keys / 10, DEFAULT)]) {
        let many = Many::measure(run, keys, room)?;
        let room_said = if room == AMPLE { "for all".to_owned() } else { format!("{} MiB", room >> 20) };
        writeln!(
            text,
            "| {} | {room_said} | {} ({:.1} %) | {} ({:.1} %) | {} | {:.0} B | {:.0} B |",
            number(count(u64::try_from(keys)?)),
            rate(many.zipf.0),
            100.0 * many.zipf.1,
            rate(many.uniform.0),
            100.0 * many.uniform.1,
            number(many.held),
            many.resident,
            many.weighed,
        )?;
        if room != AMPLE {
            continue;
        }
        let few = *first.get_or_insert(many);
        if keys == run.keys {
            let keys = number(count(u64::try_from(keys)?));
            for (name, few, many) in [("Zipf", few.zipf, many.zipf), ("uniform", few.uniform, many.uniform)] {
                let what = format!("Hits a second with {keys} keys in memory against a hundredth of them, {name}");
                let ratio = few.0 / many.0;
                let measured = format!("{ratio:.2} ({:.1} % hits)", 100.0 * many.1);
                report.target(&what, "no cliff: ≥ 0.33, all hits", measured, ratio >= 0.33 && many.1 > 0.999);
            }
            let ratio = many.weighed / many.resident;
            let measured = format!("{:.0} B of {:.0} B: {ratio:.2}", many.weighed, many.resident);
            let honest = (0.8..=1.5).contains(&ratio);
            report.target(
                "What a record weighs in the cache against what the process grew by",
                "0.8 to 1.5",
                measured,
                honest,
            );
        }
    }
    report.section("A hit, without the wire", INTRODUCTION, &text);
    Ok(())
}

/// Checks a second.
fn rate(nanos: f64) -> String {
    format!("{}/s", number(1e9 / nanos))
}

const INTRODUCTION: &str = "\
The service's own check of a key, called in a loop by one thread, or by one on each of two cores: digest of the text, the lease, look-up,
decision, counters. The store behind it makes records up and grants leases, and is asked once for each key.
Allocations are counted by an allocator that counts, over 1,000 checks, rounded up. The second table is
with a lease. Zipf: the n-th key is asked for as often as 1/n. The process's growth holds the digests of the
first 100,000 verified texts as well, which are not kept in the cache; a key has two scopes, an end and the
answer as the wire writes it.";

const HITS: &str = "\
| a hit, one key | time | on two cores at a time, the same key | allocations |
|---|---|---|---|
";

const MANY: &str = "
| keys | room | Zipf: checks (hits) | uniform: checks (hits) | in memory | growth of the process a record | weight of a record |
|---|---|---|---|---|---|---|
";
