//! A flood of keys that the server meets for the first time, and what those with a key in memory feel of it.

use std::fmt::Write as _;

use anyhow::{Context as _, ensure};

use super::Run;
use super::drive::{Figures, Load, Method, Pace, Span, count, median, meet, run as drive};
use super::remote::{difference, total};
use super::report::{Report, number, times};
use super::servers::Home;

const ARGON2_RUNS: &str = "keyclasp_argon2";
/// Connections of the flood that is as fast as it is answered, and its calls in flight on each.
const CONNECTIONS: usize = 8;
const IN_FLIGHT: usize = 8;
/// Cold keys a second that the closed flood gets through, at most, with the default costs of Argon2.
pub(crate) const MOST: usize = 24_000;
/// Heavier costs.
pub(crate) const HEAVY: &str = "\n[hash]\nm_kib = 1024\n";

/// A server that meets cold keys.
#[derive(Debug)]
pub(crate) struct Met<'a> {
    pub(crate) name: &'a str,
    pub(crate) home: Home,
    /// Keys to make at a time.
    pub(crate) at_once: usize,
    /// Cold keys that it gets through in a second, at most.
    pub(crate) most: usize,
}

/// Cold keys beside the warm ones.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Flood {
    None,
    PerMillisecond(usize),
    Closed,
}

impl Flood {
    const ALL: [Self; 4] = [Self::None, Self::PerMillisecond(1), Self::PerMillisecond(4), Self::Closed];
    /// The one that has a target.
    const AIM: Self = Self::PerMillisecond(4);

    /// How many keys a run of `span` meets at most.
    fn keys(self, span: Span, most: usize) -> usize {
        let millis = usize::try_from((span.warm + span.measured).as_millis()).unwrap_or_default() + 50;
        match self {
            Self::None => 0,
            Self::PerMillisecond(calls) => calls * millis,
            Self::Closed => most * millis / 1000,
        }
    }
}

/// Measures and reports it on these servers, none of which runs.
pub(crate) async fn cold(servers: &[Met<'_>], run: &Run, report: &mut Report) -> anyhow::Result<()> {
    let mut text = HEAD.to_owned();
    for met in servers {
        run.say(&format!("cold keys, {}", met.name));
        one(met, run, &mut text, report).await?;
    }
    report.section("A flood of cold keys", INTRODUCTION, &text);
    Ok(())
}

async fn one(met: &Met<'_>, run: &Run, text: &mut String, report: &mut Report) -> anyhow::Result<()> {
    let Met { name, home, at_once, most } = met;
    let span = Span::of(run.measured.min(std::time::Duration::from_millis(400)));
    // What is met once is not cold any more, so the server is started anew for each repetition.
    let (server, _) = home.serve(run.cores.server)?;
    let warm = home.prepare(run.warm_keys).await?;
    let needed = Flood::ALL.iter().map(|flood| flood.keys(span, *most)).sum();
    let cold: Vec<Vec<u8>> = home.make(needed, *at_once).await?.iter().map(|key| key.message()).collect();
    server.process.stop()?;
    let mut results = Flood::ALL.map(|flood| (flood, Vec::new(), Vec::new()));
    let (mut runs, mut refused) = (0.0, 0);
    for _ in 0..run.repetitions.min(8) {
        let (server, _) = home.serve(run.cores.server)?;
        let pid = server.process.id();
        let load = |messages, connections, in_flight, may_be_refused| Load {
            address: server.address,
            token: warm.token.clone(),
            messages,
            method: Method::Valid,
            connections,
            pace: Pace::Closed(in_flight),
            may_be_refused,
        };
        let valid = load(warm.valid.clone(), 1, 1, false);
        meet(&valid).await?;
        drive(std::slice::from_ref(&valid), pid, span).await?;
        let before = total(home, ARGON2_RUNS)?;
        let (mut rest, mut sent) = (cold.as_slice(), 0_u64);
        for (flood, valids, floods) in &mut results {
            let (part, others) = rest.split_at_checked(flood.keys(span, *most)).context("too few cold keys")?;
            rest = others;
            let mut loads = vec![valid.clone()];
            match *flood {
                Flood::None => {}
                Flood::PerMillisecond(calls) => {
                    loads.push(Load { pace: Pace::Every(calls), ..load(part.into(), 1, 0, true) });
                }
                Flood::Closed => loads.push(load(part.into(), CONNECTIONS, IN_FLIGHT, true)),
            }
            let figures = drive(&loads, pid, span).await?;
            valids.extend(figures.first().copied());
            if let Some(figures) = figures.get(1) {
                floods.push(*figures);
                (sent, refused) = (sent + figures.calls, refused + figures.refused);
            }
        }
        let ran = difference(home, ARGON2_RUNS, before)?;
        ensure!(
            ran + count(refused) >= count(sent) * 0.9,
            "{sent} cold keys cost {ran} runs of Argon2: not all were cold"
        );
        runs += ran;
        server.process.stop()?;
    }
    let of = |figures: &[Figures], of: fn(&Figures) -> f64| median(figures.iter().map(of));
    let idle = results.first().map(|(_, valids, _)| of(valids, |one| one.p99)).unwrap_or_default();
    for (flood, valids, floods) in &results {
        let p99 = of(valids, |one| one.p99);
        let rate = if floods.is_empty() { 0.0 } else { of(floods, |one| one.rate) };
        let said = match flood {
            Flood::None => "none".to_owned(),
            Flood::PerMillisecond(_) => format!("{}/s", number(rate)),
            Flood::Closed => format!("{}/s, {} in flight", number(rate), CONNECTIONS * IN_FLIGHT),
        };
        let shed: u64 = floods.iter().map(|one| one.refused).sum();
        let p50 = times(of(valids, |one| one.p50));
        writeln!(text, "| {name} | {said} | {p50} | {} | {:.2} | {shed} |", times(p99), p99 / idle)?;
        if *flood == Flood::AIM {
            let what =
                format!("Warm keys during a flood of {} cold keys a second on one core, {name}: p99", number(rate));
            report.target(&what, "≤ 2 × idle", format!("{:.2} ×", p99 / idle), p99 <= 2.0 * idle);
        }
    }
    run.say(&format!("{runs:.0} runs of Argon2, {refused} refused"));
    Ok(())
}

const INTRODUCTION: &str = "\
Server on one core, client (and Redis) on the other. A cold key is a valid one that this process has not met:
each costs a read of the store and a run of Argon2, which the number of these runs confirms. One connection asks
for keys in memory, one at a time, while another one sends cold ones at a fixed pace (a burst each millisecond), the
last line as fast as eight connections get answers. *Refused*: answered RESOURCE_EXHAUSTED, of all repetitions
together. With the costs of Argon2 that are the default it runs where the call is served, in tens of microseconds,
one run between two looks at the sockets; with heavier ones (here 1 MiB) it runs on threads of its own, as many at
a time as there are cores (four at most).";

const HEAD: &str = "\
| server | cold keys | warm keys: p50 | p99 | p99 × idle | refused |
|---|---|---|---|---|---|
";
