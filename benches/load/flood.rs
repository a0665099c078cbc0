//! A flood of forged keys: what it costs, and what those with a valid key feel of it.

use std::fmt::Write as _;

use super::Run;
use super::drive::{Figures, Load, Method, Pace, Span, median, run as drive};
use super::remote::{difference, total};
use super::report::{Report, number, times};
use super::servers::{Home, Material, Server};

const STORE_CALLS: &str = "keyclasp_store_calls_total";
const ARGON2_RUNS: &str = "keyclasp_argon2";

/// Forged keys each millisecond beside the valid ones; none; as fast as they are answered.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Flood {
    None,
    PerMillisecond(usize),
    Closed,
}

/// Measures and reports it.
pub(crate) async fn flood(
    home: &Home,
    server: &Server,
    material: &Material,
    run: &Run,
    report: &mut Report,
) -> anyhow::Result<()> {
    let forged = |connections, pace| Load {
        address: server.address,
        token: material.token.clone(),
        messages: material.forged.clone(),
        method: Method::Unknown,
        connections,
        pace,
        may_be_refused: false,
    };
    let valid = Load { messages: material.valid.clone(), method: Method::Valid, ..forged(1, Pace::Closed(1)) };
    let span = Span::of(run.measured);
    let pid = server.process.id();

    // Alone: what it costs, and what it sets in motion.
    let (calls, runs) = (total(home, STORE_CALLS)?, total(home, ARGON2_RUNS)?);
    let mut alone = Vec::new();
    for _ in 0..run.repetitions {
        alone.extend(drive(&[forged(8, Pace::Closed(32))], pid, span).await?);
    }
    let calls = difference(home, STORE_CALLS, calls)?;
    let runs = difference(home, ARGON2_RUNS, runs)?;
    let sent: u64 = alone.iter().map(|one| one.calls).sum();
    report.target(
        "Forged keys: store calls, Argon2 runs",
        "0, 0",
        format!("{calls}, {runs} in more than {} calls", number(super::drive::count(sent))),
        calls == 0.0 && runs == 0.0,
    );
    let of = |figures: &[Figures], of: fn(&Figures) -> f64| median(figures.iter().map(of));
    let mut text = format!(
        "Alone, 256 in flight: {} refusals a second at {:.2} µs CPU each, p50 {}, p99 {}.\n\n{HEAD}",
        number(of(&alone, |one| one.rate)),
        of(&alone, |one| one.cpu),
        times(of(&alone, |one| one.p50)),
        times(of(&alone, |one| one.p99)),
    );

    // Beside valid keys.
    let levels =
        [Flood::None, Flood::PerMillisecond(10), Flood::PerMillisecond(50), Flood::PerMillisecond(100), Flood::Closed];
    let mut results = vec![(Vec::new(), Vec::new()); levels.len()];
    for _ in 0..run.repetitions {
        for (level, (valids, floods)) in levels.iter().zip(&mut results) {
            let mut loads = vec![valid.clone()];
            match level {
                Flood::None => {}
                Flood::PerMillisecond(calls) => loads.push(forged(1, Pace::Every(*calls))),
                Flood::Closed => loads.push(forged(8, Pace::Closed(8))),
            }
            let figures = drive(&loads, pid, span).await?;
            valids.extend(figures.first().copied());
            floods.extend(figures.get(1).copied());
        }
    }
    let idle = results.first().map(|(valids, _)| of(valids, |one| one.p99)).unwrap_or_default();
    for (level, (valids, floods)) in levels.iter().zip(&results) {
        let p99 = of(valids, |one| one.p99);
        let flooded = if floods.is_empty() { 0.0 } else { of(floods, |one| one.rate) };
        let name = match level {
            Flood::None => "none".to_owned(),
            Flood::PerMillisecond(_) => format!("{}/s", number(flooded)),
            Flood::Closed => format!("{}/s, 64 in flight", number(flooded)),
        };
        writeln!(text, "| {name} | {} | {} | {:.2} |", times(of(valids, |one| one.p50)), times(p99), p99 / idle)?;
        if *level == Flood::PerMillisecond(50) {
            let what =
                format!("Valid keys during a flood of {} forged keys a second on one core: p99", number(flooded));
            report.target(&what, "≤ 2 × idle", format!("{:.2} ×", p99 / idle), p99 <= 2.0 * idle);
        }
    }
    report.section("A flood of forged keys", INTRODUCTION, &text);
    Ok(())
}

const INTRODUCTION: &str = "\
Embedded store, server on one core, client on the other. A forged key is well-formed and has a right
checksum and the id of a real key; its tag is wrong. In the table one connection asks for valid keys, one
at a time, while another one sends forged ones at a fixed pace (a burst each millisecond), the last line
as fast as eight connections get answers.";

const HEAD: &str = "\
| forged keys | valid keys: p50 | p99 | p99 × idle |
|---|---|---|---|
";
