//! The verb that writes.

use super::keys::{ShardKeys, owner_name, realm_name};
use super::script::{Answer, Call, Incarnation, unexpected};
use super::{Known, Lane, RedisStore, SLACK, changed, decimal, leases, millis, unreadable};
use crate::clock::Timestamp;
use crate::key::codec::{self, CodecError, Header, IdempotencyEntry};
use crate::store::{Commit, Effect, Expect, Outcome, Store, StoreError, Write, shard_of};

impl RedisStore {
    /// See [`Store::commit`]. Sent once: when the connection breaks, nobody knows what came of it,
    /// and the caller must say again what it wants.
    pub(super) async fn write(&self, commit: &Commit, now: Timestamp) -> Result<Outcome, StoreError> {
        commit.check(self.shards())?;
        let shard = shard_of(commit.bucket, self.shards());
        let Known { incarnation, epoch } = self.expected(shard)?;
        // The script sees to it that the shard is still in this history.
        if commit.epoch.is_some_and(|expected| expected != epoch) {
            return Ok(Outcome::Conflict);
        }
        let call = self.commit_call(shard, incarnation, commit, now);
        match self.confirmed(Lane::Write, &call).await? {
            Answer::Ok(_, values) => leases::standing(shard, epoch, values).map(leases::done).map(Outcome::Done),
            Answer::Conflict => Ok(Outcome::Conflict),
            Answer::OwnerFull => Ok(Outcome::OwnerFull),
            Answer::Replay(bytes) => decode_slot(&bytes).map(Outcome::Replay),
            Answer::Unreadable(id, header) => {
                let error = Header::read(&header).err();
                Err(unreadable(
                    format!("the record of key {}", String::from_utf8_lossy(&id)),
                    error.unwrap_or_else(|| CodecError::Damaged("a script could not read it".to_owned())),
                ))
            }
            Answer::NotPrimary => Err(self.not_primary()),
            Answer::Changed => Err(changed()),
            Answer::Setting(_) | Answer::Lease(_) | Answer::Confirm(_) => Err(unexpected("a script's answer")),
        }
    }

    /// See [`Store::idempotency`].
    pub(super) async fn read_slot(
        &self,
        bucket: u8,
        slot: [u8; 32],
        now: Timestamp,
    ) -> Result<Option<IdempotencyEntry>, StoreError> {
        let shard = shard_of(bucket, self.shards());
        let keys = ShardKeys::new(shard);
        let call = self
            .scripts
            .get
            .call(vec![keys.incarnation(), keys.idempotency(&slot)], vec![self.expected(shard)?.incarnation.to_vec()]);
        let (_, mut values) = self.read(&call, self.link.budget()).await?;
        let Some(bytes) = values.array()?.optional_bytes()? else { return Ok(None) };
        // When it is forgotten stands in front, for the script.
        let entry = decode_slot(bytes.get(8..).unwrap_or_default())?;
        Ok((now < entry.expires_at).then_some(entry))
    }

    /// The arguments are named in `scripts/commit.lua`.
    fn commit_call(&self, shard: u16, incarnation: Incarnation, commit: &Commit, now: Timestamp) -> Call<'_> {
        let script = match commit.effect {
            Effect::Adds => &self.scripts.commit_adds,
            Effect::TakesAway => &self.scripts.commit_takes_away,
        };
        let mut args: Vec<Vec<u8>> = vec![
            incarnation.to_vec(),
            decimal(now.as_millis()),
            decimal(codec::FORMAT.into()),
            decimal(millis(SLACK)),
            decimal(self.config.log_max_entries.into()),
            decimal(self.config.audit_max_events.into()),
        ];
        match &commit.idempotency {
            Some(idempotency) => {
                let forgotten_at = idempotency.entry.expires_at;
                let mut entry = forgotten_at.as_millis().to_be_bytes().to_vec();
                entry.extend(codec::encode_idempotency(&idempotency.entry));
                let replay = if idempotency.replay { "1" } else { "0" };
                let name = ShardKeys::new(shard).idempotency(&idempotency.slot);
                args.extend([name.into_bytes(), entry, ttl(forgotten_at, now), replay.into()]);
            }
            None => args.extend([const { Vec::new() }; 4]),
        }
        match &commit.guard {
            Some(guard) => {
                args.extend([owner_name(&guard.realm, &guard.owner).into_bytes(), decimal(guard.max.into())])
            }
            None => args.extend([const { Vec::new() }; 2]),
        }
        args.push(decimal(commit.writes.len() as u64));
        for write in &commit.writes {
            args.extend(write_args(write, now));
        }
        args.extend(commit.events.iter().map(codec::encode_event));
        script.call(vec![ShardKeys::new(shard).incarnation()], args)
    }
}

fn decode_slot(bytes: &[u8]) -> Result<IdempotencyEntry, StoreError> {
    codec::decode_idempotency(bytes).map_err(|error| unreadable("an idempotency entry".to_owned(), error))
}

fn write_args(write: &Write, now: Timestamp) -> [Vec<u8>; 9] {
    let Write { record, expects, gone_at } = write;
    // A record that is gone lives no more, whatever its expiry says.
    let living_until = record.living_until().map(|until| gone_at.map_or(until, |gone_at| until.min(gone_at)));
    [
        record.id.digits().to_vec(),
        match expects {
            Expect::Absent => Vec::new(),
            Expect::Version(version) => version.to_be_bytes().to_vec(),
        },
        codec::encode_record(record, *gone_at),
        gone_at.map_or_else(Vec::new, |gone_at| ttl(gone_at, now)),
        owner_name(&record.realm, &record.owner.reference).into_bytes(),
        realm_name(&record.realm).into_bytes(),
        decimal(record.created_at.as_millis()),
        living_until.map_or_else(Vec::new, |until| decimal(until.as_millis())),
        decimal(record.version),
    ]
}

/// How long Redis keeps what goes at `at`.
fn ttl(at: Timestamp, now: Timestamp) -> Vec<u8> {
    decimal(millis(at.since(now) + SLACK))
}
