//! Training of a profile-guided build: each kind of call, on each store, against a keyclasp that counts
//! where it goes and writes that down when it is stopped. No figure comes of it. Answers are checked, so
//! that the build that is made of the counts can be tried in the same way.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use keyclasp::rpc::proto::v1;

use super::NO_MEMORY;
use super::compare::VALID;
use super::drive::{Load, Pace, Span, run as drive};
use super::flood::UNKNOWN;
use super::machine::Cores;
use super::process::Scratch;
use super::servers::{Home, Programs, REALM, Redis, bearer};

/// Keys that are asked for.
const KEYS: usize = 500;
/// Keys that are changed.
const CHANGED: usize = 100;
const CONNECTIONS: usize = 8;
/// How long each load lasts.
const LASTS: Duration = Duration::from_secs(1);

/// Trains `programs.keyclasp`: from memory and with a read each time, on the embedded store and on Redis.
pub(crate) async fn train(programs: &Programs, scratch: &Scratch, cores: Cores) -> anyhow::Result<()> {
    for sections in ["", NO_MEMORY] {
        let name = if sections.is_empty() { "memory" } else { "reading" };
        let home = Home::init(programs, scratch, &format!("embedded-{name}"), None)?.with(sections)?;
        one(&home, cores.server).await.with_context(|| format!("embedded store, {name}"))?;
        let redis = Redis::start(scratch, cores.client)?;
        let home = Home::init(programs, scratch, &format!("redis-{name}"), Some(&redis.url))?.with(sections)?;
        one(&home, cores.server).await.with_context(|| format!("Redis, {name}"))?;
        redis.process.stop()?;
    }
    Ok(())
}

async fn one(home: &Home, core: usize) -> anyhow::Result<()> {
    let (server, _) = home.serve(core)?;
    let pid = server.process.id();
    let material = home.prepare(KEYS).await?;
    for (messages, outcome, in_flight) in [
        (&material.valid, VALID, 1),
        (&material.valid, VALID, 64),
        (&material.valid, VALID, 256),
        (&material.forged, UNKNOWN, 64),
    ] {
        let connections = CONNECTIONS.min(in_flight);
        let load = Load {
            address: server.address,
            token: material.token.clone(),
            messages: messages.clone(),
            outcome,
            connections,
            pace: Pace::Closed(in_flight / connections),
            may_be_refused: false,
        };
        drive(&[load], pid, Span::of(LASTS)).await?;
    }
    change(home).await?;
    home.metrics("keyclasp")?;
    server.process.stop()
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
