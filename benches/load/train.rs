//! Training of a profile-guided build: each kind of call, on each store, against a keyclasp that counts
//! where it goes and writes that down when it is stopped. Then what keyclasp is compared with: the references
//! in this program meet the same loads, so that a harness that counts learns as much of them. No figure
//! comes of it. Answers are checked, so that the build that is made of the counts can be tried in the same way.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use keyclasp::rpc::proto::v1;

use super::NO_MEMORY;
use super::drive::{Load, Method, Pace, Span, run as drive};
use super::http;
use super::machine::Cores;
use super::made::Mode;
use super::process::Scratch;
use super::proxies::{self, PEERS};
use super::reads::Reads;
use super::servers::{Home, Material, Programs, REALM, Redis, Server, bearer, reference};

/// Keys that are asked for.
const KEYS: usize = 500;
/// Keys that are changed.
const CHANGED: usize = 100;
const CONNECTIONS: usize = 8;
/// How many calls each load makes, at least. What is called most is taken for hot, and the rest for cold beside it; so
/// the ways of a call are weighed by calls, not by time, in which the fast ones would be made ten times as often.
const CALLS: u64 = 30_000;
/// A load is made in turns of this length, until it has made its calls,
const TURN: Duration = Duration::from_millis(200);
/// or so many turns.
const MOST_TURNS: usize = 150;
/// Reads of Redis alone, each time.
const READS: usize = 20_000;
/// How often each reference is asked what keyclasp is asked: that has four homes.
const ROUNDS: usize = 4;

/// Trains `programs.keyclasp`: from memory and with a read each time, on the embedded store and on Redis; and
/// `programs.load`.
pub(crate) async fn train(programs: &Programs, scratch: &Scratch, cores: Cores) -> anyhow::Result<()> {
    let mut asked = None;
    for sections in ["", NO_MEMORY] {
        let name = if sections.is_empty() { "memory" } else { "reading" };
        let home = Home::init(programs, scratch, &format!("embedded-{name}"), None)?.with(sections)?.with(PEERS)?;
        one(&home, cores.server).await.with_context(|| format!("embedded store, {name}"))?;
        if sections.is_empty() {
            proxies(&home, cores.server).await.context("what proxies ask")?;
        }
        let redis = Redis::start(scratch, cores.client)?;
        let home = Home::init(programs, scratch, &format!("redis-{name}"), Some(&redis.url))?.with(sections)?;
        let material = one(&home, cores.server).await.with_context(|| format!("Redis, {name}"))?;
        let ids = scratch.path("ids");
        std::fs::write(&ids, material.ids.join("\n"))?;
        Reads::measure(&programs.load, cores.server, &redis.url, &ids, READS).context("reads alone")?;
        redis.process.stop()?;
        asked = Some(material);
    }
    let material = asked.context("nothing was asked")?;
    let start =
        |what| reference(&programs.load, &[what], material.answer_len, cores.server, &scratch.path("references.log"));
    let (noop, allow, constant) = (start("noop")?, start("allow")?, start("constant")?);
    for _ in 0..ROUNDS {
        load(&noop, &material, Method::Valid, &[1, 64, 256]).await.context("no-op")?;
        load(&allow, &material, Method::Allowed, &[1, 64]).await.context("allow")?;
        forward_auth(&constant, &material).await.context("constant")?;
    }
    for server in [noop, allow, constant] {
        server.process.stop()?;
    }
    let core = cores.server.to_string();
    for mode in Mode::ALL {
        alone(programs, &["hit", mode.name(), &core])?;
    }
    alone(programs, &["memory", "10000", "1000000000"])?;
    Ok(())
}

/// What the harness does without a server.
fn alone(programs: &Programs, args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(&programs.load).args(args).output()?;
    ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

async fn one(home: &Home, core: usize) -> anyhow::Result<Material> {
    let (server, _) = home.serve(core)?;
    let material = home.prepare(KEYS).await?;
    load(&server, &material, Method::Valid, &[1, 64, 256]).await?;
    meet(&server, &material, Method::Unknown, 64).await?;
    change(home).await?;
    home.metrics("keyclasp")?;
    server.process.stop()?;
    Ok(material)
}

/// What proxies ask, from memory.
async fn proxies(home: &Home, core: usize) -> anyhow::Result<()> {
    let (server, _) = home.serve(core)?;
    let material = home.prepare(KEYS).await?;
    load(&server, &material, Method::Allowed, &[1, 64]).await?;
    forward_auth(&server, &material).await?;
    server.process.stop()?;
    Ok(())
}

/// Calls with valid keys, with so many in flight.
async fn load(server: &Server, material: &Material, method: Method, in_flight: &[usize]) -> anyhow::Result<()> {
    for in_flight in in_flight {
        meet(server, material, method, *in_flight).await?;
    }
    Ok(())
}

async fn meet(server: &Server, material: &Material, method: Method, in_flight: usize) -> anyhow::Result<()> {
    let connections = CONNECTIONS.min(in_flight);
    let load = Load {
        address: server.address,
        token: material.token.clone(),
        messages: Arc::clone(method.messages(material)),
        method,
        connections,
        pace: Pace::Closed(in_flight / connections),
        may_be_refused: false,
    };
    let (loads, mut calls) = ([load], 0);
    for _ in 0..MOST_TURNS {
        calls += drive(&loads, server.process.id(), Span::of(TURN)).await?.iter().map(|one| one.calls).sum::<u64>();
        if calls >= CALLS {
            break;
        }
    }
    Ok(())
}

/// The same over HTTP/1.1, as nginx asks.
async fn forward_auth(server: &Server, material: &Material) -> anyhow::Result<()> {
    for connections in [1, 32] {
        let load = http::Load { address: server.address, requests: proxies::asked(&material.keys), connections };
        let mut answers = 0;
        for _ in 0..MOST_TURNS {
            answers += http::run(&load, &[], Span::of(TURN)).await?.answers;
            if answers >= CALLS {
                break;
            }
        }
    }
    Ok(())
}

/// The calls of people who look after keys.
async fn change(home: &Home) -> anyhow::Result<()> {
    let (mut client, admin) = home.client().await?;
    for (number, key) in home.make(CHANGED, CONNECTIONS).await?.into_iter().enumerate() {
        let id = key.id.clone();
        let shown = client.get_key(bearer(v1::GetKeyRequest { id: id.clone() }, &admin)?).await?.into_inner();
        let owner = shown.key.and_then(|key| key.owner);
        let list = v1::ListKeysRequest { realm: REALM.to_owned(), owner, ..Default::default() };
        client.list_keys(bearer(list, &admin)?).await?;
        let goes_on = match number % 4 {
            0 => {
                let grace = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
                let rotate = v1::RotateKeyRequest { id, grace, ..Default::default() };
                client.rotate_key(bearer(rotate, &admin)?).await?;
                true
            }
            1 => {
                client.rotate_key(bearer(v1::RotateKeyRequest { id, ..Default::default() }, &admin)?).await?;
                false
            }
            2 => {
                let suspend = v1::SuspendKeyRequest { id: id.clone(), ..Default::default() };
                client.suspend_key(bearer(suspend, &admin)?).await?;
                client.resume_key(bearer(v1::ResumeKeyRequest { id, ..Default::default() }, &admin)?).await?;
                true
            }
            _ => {
                client.revoke_key(bearer(v1::RevokeKeyRequest { id, ..Default::default() }, &admin)?).await?;
                false
            }
        };
        let outcome = key.validate(&mut client).await?;
        ensure!(goes_on == (outcome == v1::Outcome::Valid), "change {number} leaves a key {outcome:?}");
    }
    let all = v1::ListKeysRequest { realm: REALM.to_owned(), ..Default::default() };
    client.list_keys(bearer(all, &admin)?).await?;
    Ok(())
}
