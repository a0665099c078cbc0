//! Three replicas on one Redis: what they cost it when nothing happens, and how long a revocation takes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _};
use keyclasp::clock::{Clock as _, SystemClock};
use keyclasp::rpc::proto::v1;
use keyclasp::rpc::proto::v1::key_service_client::KeyServiceClient;
use tokio::io::AsyncBufReadExt as _;
use tokio::time::sleep;
use tonic::transport::Channel;

use super::Run;
use super::drive::{Figures, Load, Method, Pace, Span, count, micros, run as drive};
use super::report::{Report, number, times};
use super::servers::{Fresh, Home, Material, Redis, Server, bearer};

/// How many replicas there are.
const REPLICAS: usize = 3;
/// Longest until all of them hold a settled lease.
const SETTLING: Duration = Duration::from_secs(60);
/// Pause between two revocations of which one is made at a time.
const PAUSE: Duration = Duration::from_millis(2);
/// What the term of a lease is by default.
pub(crate) const TERM: Duration = Duration::from_secs(5);
/// Shards of the second look at idle traffic.
const SHARDS: u16 = 16;
/// Revocations after a replica was killed.
const AFTER: usize = 50;

/// The replicas of one store.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) homes: Vec<Home>,
    pub(crate) servers: Vec<Server>,
}

impl Fleet {
    /// Starts replicas on `redis`, all on one core; answers once every lease is held and settled.
    pub(crate) async fn start(run: &Run, redis: &Redis, name: &str, shards: u16) -> anyhow::Result<Self> {
        let first = Home::init(&run.programs, &run.scratch, name, Some(&redis.url))?;
        let first = first.set("KEYCLASP_STORE__SHARDS", &shards.to_string());
        let mut homes = vec![first];
        for _ in 1..REPLICAS {
            homes.push(homes.first().context("a fleet has a first replica")?.beside()?);
        }
        let servers = homes.iter().map(|home| Ok(home.serve(run.cores.server)?.0));
        let servers = servers.collect::<anyhow::Result<_>>()?;
        let fleet = Self { homes, servers };
        fleet.settle().await?;
        Ok(fleet)
    }

    /// Waits until every replica knows of all others and no earlier lease can be left.
    pub(crate) async fn settle(&self) -> anyhow::Result<()> {
        let (clock, members) = (SystemClock::new(), count(u64::try_from(self.homes.len())?));
        for home in &self.homes {
            loop {
                let all = |name: &str, of: f64| {
                    home.metrics(name).is_ok_and(|metrics| metrics.values().all(|value| *value == of))
                };
                if all("keyclasp_lease_members{", members) && all("keyclasp_lease_settled{", 1.0) {
                    break;
                }
                ensure!(clock.elapsed() < SETTLING, "the replicas do not come to an understanding");
                sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Runs the loads at the same time. What they say of CPU is of the first replica.
    async fn drive(&self, loads: &[Load], span: Span) -> anyhow::Result<Vec<Figures>> {
        let first = self.servers.first().context("a fleet has a first replica")?;
        drive(loads, first.process.id(), span).await
    }

    pub(crate) fn stop(self) -> anyhow::Result<()> {
        self.servers.into_iter().try_for_each(|server| server.process.stop())
    }
}

/// A revocation that was answered. Times are in ns.
#[derive(Debug, Clone, Copy)]
struct Revoked {
    took: u32,
    /// What of that the other replicas were waited for; less than a second.
    waited: u32,
    lapsed: u32,
}

/// Makes revocations through all replicas in turn.
struct Revoker {
    clients: Vec<KeyServiceClient<Channel>>,
    admin: Arc<str>,
    clock: SystemClock,
}

impl Revoker {
    async fn new(fleet: &Fleet) -> anyhow::Result<Self> {
        let (mut clients, mut token) = (Vec::new(), None);
        for home in &fleet.homes {
            let (client, admin) = home.client().await?;
            clients.push(client);
            token = Some(admin);
        }
        Ok(Self { clients, admin: token.context("a fleet has replicas")?, clock: SystemClock::new() })
    }

    /// Revokes `key` through one of the replicas.
    async fn revoke(&self, through: usize, key: &Fresh) -> anyhow::Result<Revoked> {
        let client = self.clients.get(through % self.clients.len().max(1));
        let mut client = client.context("a fleet has replicas")?.clone();
        let request = v1::RevokeKeyRequest { id: key.id.clone(), ..Default::default() };
        let request = bearer(request, &self.admin)?;
        let begin = self.clock.elapsed();
        let answer = client.revoke_key(request).await?;
        let took = u32::try_from((self.clock.elapsed() - begin).as_nanos()).unwrap_or(u32::MAX);
        let fence = answer.into_inner().fence.context("a revocation without a fence")?;
        let waited = fence.duration.and_then(|waited| u32::try_from(waited.nanos).ok()).unwrap_or(u32::MAX);
        Ok(Revoked { took, waited, lapsed: fence.lapsed })
    }

    /// One at a time, for `span`, with a pause after each.
    async fn spaced(&self, keys: &mut impl Iterator<Item = Fresh>, span: Duration) -> anyhow::Result<Vec<Revoked>> {
        let (begin, mut took) = (self.clock.elapsed(), Vec::new());
        while self.clock.elapsed() - begin < span {
            let key = keys.next().context("there were too few keys to revoke")?;
            took.push(self.revoke(took.len(), &key).await?);
            sleep(PAUSE).await;
        }
        Ok(took)
    }

    /// That every replica answers that `key` is revoked.
    async fn is_revoked(&self, key: &Fresh) -> anyhow::Result<()> {
        for client in &self.clients {
            let outcome = key.validate(&mut client.clone()).await?;
            ensure!(outcome == v1::Outcome::Revoked, "a revoked key is {outcome:?}");
        }
        Ok(())
    }
}

/// Measures and reports all of it.
pub(crate) async fn fleet(run: &Run, report: &mut Report) -> anyhow::Result<()> {
    let redis = Redis::start(&run.scratch, run.cores.client)?;
    let mut fleet = Fleet::start(run, &redis, "fleet", 1).await?;
    run.say("idle lease traffic");
    let mut idle = String::new();
    let one = traffic(&redis, run.idle).await?;
    {
        let redis = Redis::start(&run.scratch, run.cores.client)?;
        let fleet = Fleet::start(run, &redis, "shards", SHARDS).await;
        let fleet = fleet.context("a fleet with several shards")?;
        let many = traffic(&redis, run.idle).await?;
        fleet.stop()?;
        idle_report(&one, &many, &mut idle, report)?;
    }
    report.section("Idle lease traffic", &format!("{REPLICAS} replicas. {IDLE}"), &idle);

    run.say("revocations");
    let material = warmed(run, &fleet).await?;
    let text = revocations(run, &mut fleet, &material, report).await?;
    let introduction = format!("{REPLICAS} replicas on Redis {}. {REVOKING}", redis.version()?);
    report.section("Revocations", &introduction, &text);
    fleet.stop()
}

/// Keys that every replica holds in memory.
async fn warmed(run: &Run, fleet: &Fleet) -> anyhow::Result<Material> {
    let first = fleet.homes.first().context("a fleet has a first replica")?;
    let material = first.prepare(run.warm_keys).await?;
    // The others meet each of them for the first time.
    fleet.drive(&loads(fleet, &material, Pace::Closed(8)), Span::of(Duration::from_secs(1))).await?;
    Ok(material)
}

fn loads(fleet: &Fleet, material: &Material, pace: Pace) -> Vec<Load> {
    let load = |server: &Server| Load {
        address: server.address,
        token: Arc::clone(&material.token),
        messages: Arc::clone(&material.valid),
        method: Method::Valid,
        connections: 1,
        pace,
        may_be_refused: false,
    };
    fleet.servers.iter().map(load).collect()
}

/// Calls a second of each command, by name: what was sent, and what scripts called.
#[derive(Debug, Default)]
struct Commands {
    sent: BTreeMap<String, f64>,
    called: BTreeMap<String, f64>,
}

impl Commands {
    /// All of a kind, for one replica.
    fn sum(of: &BTreeMap<String, f64>) -> f64 {
        of.values().sum()
    }

    fn list(of: &BTreeMap<String, f64>) -> String {
        let mut rates: Vec<_> = of.iter().collect();
        rates.sort_by(|one, other| other.1.total_cmp(one.1));
        rates.iter().map(|(name, rate)| format!("{name} {rate:.1}")).collect::<Vec<_>>().join(", ")
    }
}

/// What Redis is told while nobody asks for anything, divided by the replicas.
async fn traffic(redis: &Redis, span: Duration) -> anyhow::Result<Commands> {
    let mut monitor = redis.monitor().await?;
    let (clock, mut commands) = (SystemClock::new(), Commands::default());
    let mut line = String::new();
    while let Some(rest) = span.checked_sub(clock.elapsed()) {
        line.clear();
        // A line that is cut off here is one of thousands.
        if let Ok(read) = tokio::time::timeout(rest, monitor.read_line(&mut line)).await {
            ensure!(read? > 0, "MONITOR ended");
            // +1700000000.000000 [0 127.0.0.1:1234] "evalsha" "…", or [0 lua] where a script called it.
            let Some((by, command)) = line.split_once("] \"") else { continue };
            let name = command.split('"').next().unwrap_or_default().to_lowercase();
            let kind = if by.ends_with("lua") { &mut commands.called } else { &mut commands.sent };
            *kind.entry(name).or_default() += 1.0;
        }
    }
    let each = clock.elapsed().as_secs_f64() * count(u64::try_from(REPLICAS)?);
    commands.sent.values_mut().chain(commands.called.values_mut()).for_each(|calls| *calls /= each);
    Ok(commands)
}

fn idle_report(one: &Commands, many: &Commands, text: &mut String, report: &mut Report) -> anyhow::Result<()> {
    *text +=
        "| shards | sent by a replica, a second | of which | called by scripts | of which |\n|---|---|---|---|---|\n";
    for (shards, Commands { sent, called }) in [(1, one), (SHARDS, many)] {
        let (sent, sent_list) = (Commands::sum(sent), Commands::list(sent));
        writeln!(
            text,
            "| {shards} | {sent:.1} | {sent_list} | {:.1} | {} |",
            Commands::sum(called),
            Commands::list(called)
        )?;
    }
    let each = (Commands::sum(&many.sent) - Commands::sum(&one.sent)) / f64::from(SHARDS - 1);
    let measured = format!("{:.1} with one shard, {each:.1} for each further one", Commands::sum(&one.sent));
    report.target("Idle: Redis commands a second and replica, a term of 5 s", "stated", measured, true);
    Ok(())
}

const IDLE: &str = "\
Nobody calls them; the term of a lease is 5 s. Commands a second as MONITOR shows them, divided by
the replicas; `evalsha` is a script of the store.";

const REVOKING: &str = "\
The replicas share one core, client and Redis the other one: two cores carry all of it. RevokeKey over
gRPC, of a key that was not revoked before, through the replicas in turn. *Idle* and *half*: one at a time, 2 ms
after the one before was answered; *half* while all replicas together answer ValidateKey, from memory, at half
of the rate at which this set-up is saturated (calls come in a burst each millisecond). The rest: that many
in flight, and no other calls.";

async fn revocations(run: &Run, fleet: &mut Fleet, material: &Material, report: &mut Report) -> anyhow::Result<String> {
    let revoker = Revoker::new(fleet).await?;
    let home = fleet.homes.first().context("a fleet has a first replica")?;
    let span = Span::of(run.measured.max(Duration::from_millis(500)));

    let full = fleet.drive(&loads(fleet, material, Pace::Closed(64)), Span::of(Duration::from_secs(2))).await?;
    let saturated: f64 = full.iter().map(|one| one.rate).sum();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
    let half = (saturated / 2.0 / 1000.0 / count(u64::try_from(REPLICAS)?)).round().max(1.0) as usize;

    let (mut idle, mut busy, mut offered) = (Vec::new(), Vec::new(), Vec::new());
    let mut closed = [1_usize, 8, 64].map(|at_once| (at_once, Vec::new(), Vec::new()));
    for round in 0..run.repetitions {
        run.say(&format!("revocations, round {}", round + 1));
        let mut keys = home.make(run.revocations, 32).await?.into_iter();
        idle.extend(revoker.spaced(&mut keys, span.measured).await?);
        let loads = loads(fleet, material, Pace::Every(half));
        let (load, took) = tokio::join!(fleet.drive(&loads, span), async {
            sleep(span.warm).await;
            revoker.spaced(&mut keys, span.measured).await
        });
        offered.push(load?.iter().map(|one| one.rate).sum::<f64>());
        busy.extend(took?);
        for (at_once, rates, all) in &mut closed {
            let begin = revoker.clock.elapsed();
            let (revoker, until) = (&revoker, begin + span.measured);
            let last = keys.as_slice().first().cloned();
            let revoking = keys.by_ref().take_while(|_| revoker.clock.elapsed() < until).enumerate();
            let revoking = revoking.map(|(number, key)| async move { revoker.revoke(number, &key).await });
            let done = futures_util::stream::iter(revoking).buffer_unordered(*at_once);
            let done: Vec<_> = done.try_collect().await?;
            let seconds = (revoker.clock.elapsed() - begin).as_secs_f64();
            rates.push(count(u64::try_from(done.len())?) / seconds);
            all.extend(done);
            if let Some(key) = last {
                revoker.is_revoked(&key).await?;
            }
        }
    }
    let offered = super::drive::median(offered);
    let mut text = HEAD.to_owned();
    let mut row = |what: &str, rate: &str, revoked: &[Revoked]| -> anyhow::Result<(f64, f64)> {
        let took = &sorted(revoked.iter().map(|one| one.took));
        let waited = &sorted(revoked.iter().map(|one| one.waited));
        let (p50, p99) = (micros(took, 0.5), micros(took, 0.99));
        writeln!(
            text,
            "| {what} | {} | {rate} | {} | {} | {} | {} |",
            number(count(u64::try_from(took.len())?)),
            times(p50),
            times(p99),
            times(micros(took, 1.0)),
            times(micros(waited, 0.5)),
        )?;
        Ok((p50, p99))
    };
    let of_idle = row("idle", "", &idle)?;
    let what = format!("half: {} checks a second of {}", number(offered), number(saturated));
    let of_busy = row(&what, "", &busy)?;
    let mut sustained = Vec::new();
    for (at_once, rates, took) in closed {
        let rate = number(super::drive::median(rates));
        row(&format!("{at_once} in flight"), &rate, &took)?;
        sustained.push(format!("{rate} with {at_once} in flight"));
    }
    let half = format!("all at half of {} checks a second", number(saturated));
    for (name, (p50, p99)) in [("idle", of_idle), (half.as_str(), of_busy)] {
        let what = format!("Fenced revocation, {REPLICAS} replicas, {name}");
        report.target(&format!("{what}: p50"), "≤ 3 ms", times(p50), p50 <= 3_000.0);
        report.target(&format!("{what}: p99"), "≤ 10 ms", times(p99), p99 <= 10_000.0);
    }
    report.target("Fenced revocations a second, 3 replicas", "stated", sustained.join(", "), true);
    text += &killed(run, fleet, &revoker, of_idle.0, report).await?;
    Ok(text)
}

const HEAD: &str = "\
| load | revocations | a second | p50 | p99 | slowest | of which replicas were waited for: p50 |
|---|---|---|---|---|---|---|
";

/// One replica is killed: the first revocation waits for the end of its lease, the next ones do not.
async fn killed(
    run: &Run,
    fleet: &mut Fleet,
    revoker: &Revoker,
    idle: f64,
    report: &mut Report,
) -> anyhow::Result<String> {
    let (mut slowest, mut after, mut lapsed) = (0.0_f64, Vec::new(), true);
    for _ in 0..run.outages {
        let home = fleet.homes.first().context("a fleet has a first replica")?;
        let keys = home.make(AFTER + 1, 8).await?;
        let victim = fleet.servers.pop().context("a fleet has a last replica")?;
        victim.process.kill()?;
        for (place, key) in keys.iter().enumerate() {
            // Through one of the two that are left.
            let Revoked { took, lapsed: silent, .. } = revoker.revoke(place % (REPLICAS - 1), key).await?;
            if place == 0 {
                lapsed &= silent == 1;
                slowest = slowest.max(f64::from(took) / 1e6);
            } else {
                after.push(took);
                sleep(PAUSE).await;
            }
        }
        let home = fleet.homes.last().context("a fleet has a last replica")?;
        fleet.servers.push(home.serve(run.cores.server)?.0);
        fleet.settle().await?;
    }
    let after = sorted(after);
    let (p50, most) = (micros(&after, 0.5), TERM.as_secs_f64() * 1000.0 + 500.0);
    let measured = format!("{slowest:.0} ms, then p50 {}", times(p50));
    let met = slowest <= most && p50 <= (idle * 2.0).max(3_000.0) && lapsed;
    report.target(
        "Fenced revocation after a replica was killed (SIGKILL), a term of 5 s: the slowest first one",
        "≤ 5.5 s, then as before",
        measured,
        met,
    );
    Ok(format!(
        "\nAfter SIGKILL of one replica, {} times: the first revocation took at most {slowest:.0} ms, the {AFTER} after \
         it {} at p50 and {} at p99.\n",
        run.outages,
        times(p50),
        times(micros(&after, 0.99))
    ))
}

fn sorted(times: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let mut times: Vec<u32> = times.into_iter().collect();
    times.sort_unstable();
    times
}
