//! What a read of Redis costs where keyclasp stands: PING, GET, and the store's own fenced read, one
//! at a time over one connection, from a process on keyclasp's core.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use keyclasp::clock::{Clock as _, SystemClock};
use keyclasp::key::KeyId;
use keyclasp::random::OsEntropy;
use keyclasp::store::Store as _;
use keyclasp::store::redis::{RedisConfig, RedisStore, RedisUrl};

use super::drive::micros;

/// Round trips at p50, in µs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reads {
    pub(crate) ping: f64,
    pub(crate) get: f64,
    pub(crate) fenced: f64,
    pub(crate) fenced_p99: f64,
}

impl Reads {
    /// Measures in a process of its own on `core`.
    pub(crate) fn measure(program: &Path, core: usize, url: &str, ids: &Path, calls: usize) -> anyhow::Result<Self> {
        let mut command = Command::new("taskset");
        command.arg("-c").arg(core.to_string()).arg(program).arg("reads").arg(url).arg(ids).arg(calls.to_string());
        let output = command.output()?;
        ensure!(output.status.success(), "reads: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout)?;
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        match numbers.as_slice() {
            [ping, get, fenced, fenced_p99] => {
                Ok(Self { ping: *ping, get: *get, fenced: *fenced, fenced_p99: *fenced_p99 })
            }
            _ => anyhow::bail!("reads answered {text:?}"),
        }
    }

    /// Measures in this process.
    pub(crate) async fn here(url: &str, ids: &Path, calls: usize) -> anyhow::Result<Self> {
        let ids = std::fs::read_to_string(ids)?;
        let ids = ids.lines().map(str::parse).collect::<Result<Vec<KeyId>, _>>()?;
        let clock = Arc::new(SystemClock::new());
        let store =
            RedisStore::connect(RedisConfig::new(RedisUrl::parse(url)?), Arc::new(OsEntropy), clock.clone()).await?;
        let mut connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
        let () = redis::cmd("SET").arg("bench:220").arg(vec![b'x'; 220]).query_async(&mut connection).await?;
        let (mut ping, mut get, mut fenced) = (Vec::new(), Vec::new(), Vec::new());
        let now = clock.now();
        for (round, id) in ids.iter().cycle().take(calls + calls / 10).enumerate() {
            let begin = clock.elapsed();
            let () = redis::cmd("PING").query_async(&mut connection).await?;
            let pinged = clock.elapsed();
            let _: Vec<u8> = redis::cmd("GET").arg("bench:220").query_async(&mut connection).await?;
            let got = clock.elapsed();
            store.get(*id, now).await?.context("a key of this run is missing")?;
            let end = clock.elapsed();
            // The first tenth warms up.
            if round >= calls / 10 {
                for (times, from, to) in [(&mut ping, begin, pinged), (&mut get, pinged, got), (&mut fenced, got, end)]
                {
                    times.push(u32::try_from((to - from).as_nanos()).unwrap_or(u32::MAX));
                }
            }
        }
        let () = redis::cmd("DEL").arg("bench:220").query_async(&mut connection).await?;
        for times in [&mut ping, &mut get, &mut fenced] {
            times.sort_unstable();
        }
        Ok(Self {
            ping: micros(&ping, 0.5),
            get: micros(&get, 0.5),
            fenced: micros(&fenced, 0.5),
            fenced_p99: micros(&fenced, 0.99),
        })
    }
}
