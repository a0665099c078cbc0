//! ValidateKey on Redis beside the round trips that it is made of.

use std::fmt::Write as _;

use anyhow::Context as _;

use super::compare::Contender;
use super::drive::{Figures, median};
use super::reads::Reads;
use super::report::{Report, times};
use super::servers::{Home, Material, Plain, Redis, Server};
use super::{NO_MEMORY, Run};

/// A keyclasp that reads its Redis for each call.
#[derive(Debug)]
pub(crate) struct Build<'a> {
    pub(crate) name: &'static str,
    pub(crate) redis: &'a Redis,
    pub(crate) server: &'a Server,
    pub(crate) material: &'a Material,
}

/// A plain build without memory for records, and a Redis of its own.
#[derive(Debug)]
pub(crate) struct Beside {
    pub(crate) redis: Redis,
    pub(crate) server: Server,
    pub(crate) material: Material,
}

impl Beside {
    /// Starts both, where the other servers are.
    pub(crate) async fn start(Plain(programs): &Plain, run: &Run) -> anyhow::Result<Self> {
        let redis = Redis::start(&run.scratch, run.cores.client)?;
        let home = Home::init(programs, &run.scratch, "redis-reading-plain", Some(&redis.url))?.with(NO_MEMORY)?;
        let (server, _) = home.serve(run.cores.server)?;
        let material = home.prepare(run.warm_keys).await?;
        Ok(Self { redis, server, material })
    }

    /// SIGTERM for both, and their end.
    pub(crate) fn stop(self) -> anyhow::Result<()> {
        self.server.process.stop()?;
        self.redis.process.stop()
    }
}

/// Measures at each placement, the builds in turn, and reports it; leaves all where they were. Of the first one
/// something is expected.
pub(crate) async fn reads(builds: &[Build<'_>], run: &Run, report: &mut Report) -> anyhow::Result<()> {
    let ids = |build: &Build<'_>| run.scratch.path(&format!("ids-{}", build.name));
    for build in builds {
        std::fs::write(ids(build), build.material.ids.join("\n"))?;
    }
    let (apart, here) = (run.cores.server, run.cores.client);
    let mut text = HEAD.to_owned();
    for (placement, keyclasp) in [
        ("keyclasp, client and Redis on one core", here),
        ("keyclasp on one core, client and Redis on the other", apart),
    ] {
        for build in builds {
            build.server.process.move_to(keyclasp)?;
            build.redis.process.move_to(here)?;
        }
        let mut results: Vec<_> = builds.iter().map(|build| (build, Vec::new(), Vec::new())).collect();
        for _ in 0..run.repetitions {
            for (build, round_trips, figures) in &mut results {
                let Build { name, redis, server, material } = **build;
                let contender = Contender { name, server, material };
                let reads = Reads::measure(&run.programs.load, keyclasp, &redis.url, &ids(build), run.reads)?;
                round_trips.push(reads);
                figures.push(contender.measure(1, 1, run.measured).await?);
            }
        }
        for (place, (build, round_trips, figures)) in results.iter().enumerate() {
            let reads = |of: fn(&Reads) -> f64| median(round_trips.iter().map(of));
            let calls = |of: fn(&Figures) -> f64| median(figures.iter().map(of));
            let ratio = median(figures.iter().zip(round_trips).map(|(call, read)| call.p50 / read.fenced));
            writeln!(
                text,
                "| {placement} | {} | {} | {} | {} (p99 {}) | {} (p99 {}) | {ratio:.2} |",
                build.name,
                times(reads(|one| one.ping)),
                times(reads(|one| one.get)),
                times(reads(|one| one.fenced)),
                times(reads(|one| one.fenced_p99)),
                times(calls(|one| one.p50)),
                times(calls(|one| one.p99)),
            )?;
            // Judged where all else is judged: the server on one core, its client on the other.
            if place == 0 && keyclasp == apart {
                let what = "ValidateKey that reads Redis, one in flight, against a fenced read's round trip";
                let what = format!("{what} ({placement})");
                report.target(&what, "p50 ≤ 2 ×", format!("{ratio:.2} ×"), ratio <= 2.0);
            }
        }
    }
    for build in builds {
        build.server.process.move_to(apart)?;
    }
    let version = builds.first().context("there is no build")?.redis.version()?;
    report.section(
        "ValidateKey that reads Redis",
        &format!("Redis {version} without persistence. {INTRODUCTION}"),
        &text,
    );
    Ok(())
}

const HEAD: &str = "\
| placement | build | PING | GET of 220 B | fenced read | ValidateKey | p50 × fenced read |
|---|---|---|---|---|---|---|
";

const INTRODUCTION: &str = "\
keyclasp without memory for records
(`cache.memory_mib = 0`): each check of a key reads it. Round trips at p50, one call at a time. PING, GET and the fenced read (the store's own `get`: a script
that asks whether the node is the primary and the shard the one that it was, then reads) are made by a
process on keyclasp's core over one connection, as keyclasp makes them; ValidateKey by a client, so that it
holds the client's own round trip as well. Argon2 does not run: each secret was seen before.
The process that makes the reads alone is a part of the harness, and like it built by a profile, in which it made
these reads; so are its reads beside the plain build of keyclasp, which is there for comparison.";

/// What differs between two states of the metrics.
pub(crate) fn difference(home: &Home, prefix: &str, before: f64) -> anyhow::Result<f64> {
    Ok(total(home, prefix)? - before)
}

/// The sum of the metrics whose name begins with `prefix`, but for the store's own probe.
pub(crate) fn total(home: &Home, prefix: &str) -> anyhow::Result<f64> {
    let metrics = home.metrics(prefix)?;
    Ok(metrics.iter().filter(|(name, _)| !name.contains("verb=\"health\"")).map(|(_, value)| value).sum())
}
