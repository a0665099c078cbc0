//! ValidateKey on Redis beside the round trips that it is made of.

use std::fmt::Write as _;

use super::Run;
use super::compare::Contender;
use super::drive::{Figures, median};
use super::reads::Reads;
use super::report::{Report, times};
use super::servers::{Home, Material, Redis, Server};

/// Measures at each placement and reports it; leaves all where they were.
pub(crate) async fn reads(
    redis: &Redis,
    server: &Server,
    material: &Material,
    run: &Run,
    report: &mut Report,
) -> anyhow::Result<()> {
    let contender = Contender { name: "keyclasp, Redis, reading", server, material };
    let ids = run.scratch.path("ids");
    std::fs::write(&ids, material.ids.join("\n"))?;
    let (apart, here) = (run.cores.server, run.cores.client);
    let mut text = HEAD.to_owned();
    for (placement, keyclasp) in [
        ("keyclasp, client and Redis on one core", here),
        ("keyclasp on one core, client and Redis on the other", apart),
    ] {
        server.process.move_to(keyclasp)?;
        redis.process.move_to(here)?;
        let (mut round_trips, mut figures) = (Vec::new(), Vec::new());
        for _ in 0..run.repetitions {
            round_trips.push(Reads::measure(&run.programs.load, keyclasp, &redis.url, &ids, run.reads)?);
            figures.push(contender.measure(1, 1, run.measured).await?);
        }
        let reads = |of: fn(&Reads) -> f64| median(round_trips.iter().map(of));
        let calls = |of: fn(&Figures) -> f64| median(figures.iter().map(of));
        let ratio = median(figures.iter().zip(&round_trips).map(|(call, read)| call.p50 / read.fenced));
        writeln!(
            text,
            "| {placement} | {} | {} | {} (p99 {}) | {} (p99 {}) | {ratio:.2} |",
            times(reads(|one| one.ping)),
            times(reads(|one| one.get)),
            times(reads(|one| one.fenced)),
            times(reads(|one| one.fenced_p99)),
            times(calls(|one| one.p50)),
            times(calls(|one| one.p99)),
        )?;
        let what =
            format!("ValidateKey that reads Redis, one in flight, against a fenced read's round trip ({placement})");
        report.target(&what, "p50 ≤ 2 ×", format!("{ratio:.2} ×"), ratio <= 2.0);
    }
    server.process.move_to(apart)?;
    let version = redis.version()?;
    report.section(
        "ValidateKey that reads Redis",
        &format!("Redis {version} without persistence. {INTRODUCTION}"),
        &text,
    );
    Ok(())
}

const HEAD: &str = "\
| placement | PING | GET of 220 B | fenced read | ValidateKey | p50 × fenced read |
|---|---|---|---|---|---|
";

const INTRODUCTION: &str = "\
keyclasp without memory for records
(`cache.memory_mib = 0`): each check of a key reads it. Round trips at p50, one call at a time. PING, GET and the fenced read (the store's own `get`: a script
that asks whether the node is the primary and the shard the one that it was, then reads) are made by a
process on keyclasp's core over one connection, as keyclasp makes them; ValidateKey by a client, so that it
holds the client's own round trip as well. Argon2 does not run: each secret was seen before.";

/// What differs between two states of the metrics.
pub(crate) fn difference(home: &Home, prefix: &str, before: f64) -> anyhow::Result<f64> {
    Ok(total(home, prefix)? - before)
}

/// The sum of the metrics whose name begins with `prefix`, but for the store's own probe.
pub(crate) fn total(home: &Home, prefix: &str) -> anyhow::Result<f64> {
    let metrics = home.metrics(prefix)?;
    Ok(metrics.iter().filter(|(name, _)| !name.contains("verb=\"health\"")).map(|(_, value)| value).sum())
}
