//! Redis is killed and comes back: how long keys are answered meanwhile, and how soon all of them are again.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use keyclasp::clock::{Clock as _, SystemClock};
use keyclasp::rpc::proto::v1;
use keyclasp::rpc::proto::v1::key_service_client::KeyServiceClient;
use tokio::time::sleep;
use tonic::transport::Channel;

use super::Run;
use super::drive::median;
use super::fleet::{Fleet, TERM};
use super::report::Report;
use super::servers::{Fresh, Redis};

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(2);
/// How long after the end of every lease keys are still asked for.
const AFTERWARDS: Duration = Duration::from_millis(500);
/// Longest wait for anything here.
const LIMIT: Duration = Duration::from_secs(30);
/// Redis writes its file once a second.
const WRITTEN: Duration = Duration::from_millis(2_500);

/// Measures and reports it.
pub(crate) async fn outage(run: &Run, report: &mut Report) -> anyhow::Result<()> {
    let mut redis = Redis::durable(&run.scratch, run.cores.client)?;
    let fleet = Fleet::start(run, &redis, "outage", 1).await?;
    let home = fleet.homes.first().context("a fleet has a first replica")?;
    let keys = home.make(1 + run.outages, 8).await?;
    let (cached, fresh) = keys.split_first().context("no keys")?;
    let mut clients = Vec::new();
    for home in &fleet.homes {
        clients.push(home.client().await?.0);
    }
    let clock = SystemClock::new();
    let (mut served, mut back) = (Vec::new(), Vec::new());
    for key in fresh {
        run.say("Redis is killed");
        try_join_all(clients.iter().map(|client| until_valid(client, cached, &clock))).await?;
        sleep(WRITTEN).await;
        // Who had no lease again when it was asked read it, and did not keep it.
        try_join_all(clients.iter().map(|client| until_valid(client, cached, &clock))).await?;
        let place = redis.kill()?;
        let killed = clock.elapsed();
        let last = try_join_all(clients.iter().map(|client| while_valid(client, cached, &clock))).await?;
        served.extend(last.into_iter().map(|last| last.saturating_sub(killed).as_secs_f64()));
        // From here on, what is asked for is in no memory.
        redis = place.start()?;
        let there = clock.elapsed();
        let first = try_join_all(clients.iter().map(|client| until_valid(client, key, &clock))).await?;
        let slowest = first.into_iter().max().unwrap_or_default();
        back.push(slowest.saturating_sub(there).as_secs_f64() * 1000.0);
    }
    let (least, most) = (fold(&served, f64::MAX, f64::min), fold(&served, 0.0, f64::max));
    let worst = fold(&back, 0.0, f64::max);
    report.target(
        "Redis killed and back: from its first PONG until the last of 3 replicas validates a key that it does not hold",
        "≤ 1 s",
        format!("{worst:.0} ms at most"),
        worst <= 1000.0,
    );
    let term = TERM.as_secs_f64();
    report.target(
        "Redis killed: keys in memory are served until the lease ends (beats come every second, the term is 5 s)",
        "4 s to 5 s",
        format!("{least:.2} s to {most:.2} s"),
        least >= term * 0.99 - 1.1 && most <= term,
    );
    let text = format!(
        "| what | least | median | most |\n|---|---|---|---|\n\
         | a key in memory is served, after the kill | {least:.2} s | {:.2} s | {most:.2} s |\n\
         | a key that is in no memory is validated by the slowest of the replicas, after the first PONG | {:.0} ms | {:.0} ms | {worst:.0} ms |\n",
        median(served.iter().copied()),
        fold(&back, f64::MAX, f64::min),
        median(back.iter().copied()),
    );
    let introduction = format!("{INTRODUCTION} {} times.", run.outages);
    report.section("Redis killed and back", &introduction, &text);
    fleet.stop()
}

const INTRODUCTION: &str = "\
Three replicas on one core; the Redis on the client's, with `appendonly yes` so that it finds its keys again. SIGKILL
of Redis; it is started again once no replica answers any more. Each replica is asked every 2 ms.";

/// Asks until the key passes; answers when it did.
async fn until_valid(client: &KeyServiceClient<Channel>, key: &Fresh, clock: &SystemClock) -> anyhow::Result<Duration> {
    let (mut client, begin) = (client.clone(), clock.elapsed());
    loop {
        if key.validate(&mut client).await.is_ok_and(|outcome| outcome == v1::Outcome::Valid) {
            return Ok(clock.elapsed());
        }
        ensure!(clock.elapsed() - begin < LIMIT, "a key was not validated within {LIMIT:?}");
        sleep(LOOK).await;
    }
}

/// Asks until no lease can be left; answers when the key passed last.
async fn while_valid(client: &KeyServiceClient<Channel>, key: &Fresh, clock: &SystemClock) -> anyhow::Result<Duration> {
    let (mut client, begin) = (client.clone(), clock.elapsed());
    let mut last = begin;
    while clock.elapsed() - begin < TERM + AFTERWARDS {
        if let Ok(outcome) = key.validate(&mut client).await {
            ensure!(outcome == v1::Outcome::Valid, "a key in memory is {outcome:?}");
            last = clock.elapsed();
        }
        sleep(LOOK).await;
    }
    Ok(last)
}

fn fold(values: &[f64], first: f64, fold: fn(f64, f64) -> f64) -> f64 {
    values.iter().copied().fold(first, fold)
}
