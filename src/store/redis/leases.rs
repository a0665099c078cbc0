//! The verbs of leases: rows of members, barriers, and the wait for a log entry. What a change of the term
//! takes is in `term`.

use std::time::Duration;

use async_trait::async_trait;
use data_encoding::HEXLOWER;
use redis::Value;

use super::audit::place;
use super::connection::{Confirmed, LONGEST_WAIT};
use super::keys::ShardKeys;
use super::lanes::Lane;
use super::script::{Answer, Call, Script, Values, unexpected};
use super::{Known, RedisStore, command, decimal, millis, unreadable};
use crate::key::codec::CodecError;
use crate::store::{Beat, Beaten, Done, Epoch, LONGEST_WAKE, Leases, LogCursor, Member, MemberId, StoreError};

/// Log entries that one blocking read answers: it only wakes.
const SEEN: &[u8] = b"256";

#[async_trait]
impl Leases for RedisStore {
    fn term(&self) -> Duration {
        self.known().term
    }

    async fn beat(&self, shard: u16, beat: &Beat) -> Result<Beaten, StoreError> {
        let (keys, Known { incarnation, epoch }) = (self.check_shard(shard)?, self.expected(shard)?);
        // What was applied of another history says nothing about this one.
        let applied = beat.applied.filter(|applied| applied.epoch == epoch).map_or(0, |applied| applied.position);
        let args = vec![incarnation.to_vec(), hex(beat.member).into_bytes(), decimal(beat.number), decimal(applied)];
        let call = self.scripts.beat.call(vec![keys.incarnation()], args);
        let answer = if beat.confirmed {
            self.confirmed(Lane::Beat, &call).await?
        } else {
            self.run(Lane::Ack, &call, self.link.budget()).await?
        };
        let (_, values) = self.accepted(answer)?;
        standing(shard, epoch, values)
    }

    async fn members(&self, shard: u16) -> Result<Beaten, StoreError> {
        let (keys, Known { incarnation, epoch }) = (self.check_shard(shard)?, self.expected(shard)?);
        let call = self.scripts.members.call(vec![keys.incarnation()], vec![incarnation.to_vec()]);
        let (_, values) = self.read(&call, self.link.budget()).await?;
        standing(shard, epoch, values)
    }

    async fn remove(&self, shard: u16, epoch: Epoch, member: &Member) -> Result<bool, StoreError> {
        let (keys, known) = (self.check_shard(shard)?, self.expected(shard)?);
        if known.epoch != epoch {
            return Ok(false);
        }
        let args = vec![hex(member.id).into_bytes(), decimal(member.beat)];
        Ok(self.unconfirmed(&self.scripts.remove, &keys, known, args).await?.number()? == 1)
    }

    async fn release(&self, shard: u16, member: MemberId) -> Result<(), StoreError> {
        let (keys, known) = (self.check_shard(shard)?, self.expected(shard)?);
        self.unconfirmed(&self.scripts.release, &keys, known, vec![hex(member).into_bytes()]).await.map(drop)
    }

    async fn settle(&self, shard: u16, epoch: Epoch) -> Result<(), StoreError> {
        let (keys, known) = (self.check_shard(shard)?, self.expected(shard)?);
        if known.epoch != epoch {
            return Ok(());
        }
        self.unconfirmed(&self.scripts.settle, &keys, known, Vec::new()).await.map(drop)
    }

    async fn barrier(&self, shard: u16) -> Result<Done, StoreError> {
        let (keys, Known { incarnation, epoch }) = (self.check_shard(shard)?, self.expected(shard)?);
        let call = self.scripts.barrier.call(vec![keys.incarnation()], vec![incarnation.to_vec()]);
        let (_, values) = self.accepted(self.confirmed(Lane::Write, &call).await?)?;
        standing(shard, epoch, values).map(done)
    }

    async fn wake(&self, after: &[(u16, u64)], limit: Duration) -> Result<Vec<(u16, u64)>, StoreError> {
        if after.is_empty() {
            return Err(StoreError::Misuse("a wait for the log entries of no shard".to_owned()));
        }
        let mut logs = Vec::with_capacity(after.len());
        for (shard, _) in after {
            logs.push(self.check_shard(*shard)?.log());
        }
        let places: Vec<_> = after.iter().map(|(_, position)| format!("{position}-0")).collect();
        // BLOCK 0 would wait for ever.
        let limit = millis(limit.min(LONGEST_WAKE)).max(1).to_string();
        let mut args: Vec<&[u8]> = vec![b"COUNT", SEEN, b"BLOCK", limit.as_bytes(), b"STREAMS"];
        args.extend(logs.iter().chain(&places).map(String::as_bytes));
        let streams = match self.link.send(Lane::Wake, &command("XREAD", &args), self.link.budget()).await? {
            Value::Nil => return Ok(Vec::new()),
            Value::Map(streams) => streams,
            _ => return Err(unexpected("streams")),
        };
        streams
            .into_iter()
            .map(|(name, entries)| {
                let name = Values::of(Value::Array(vec![name]))?.bytes()?;
                let asked = logs.iter().zip(after).find(|(log, _)| log.as_bytes() == name.as_slice());
                let (_, (shard, _)) = asked.ok_or_else(|| unexpected("the streams that were asked for"))?;
                let Value::Array(entries) = entries else { return Err(unexpected("entries")) };
                let last = entries.into_iter().next_back().unwrap_or_default();
                let (position, _) = place(&Values::of(last)?.bytes()?)?;
                Ok((*shard, position))
            })
            .collect()
    }
}

impl RedisStore {
    /// Runs a script whose effect as many replicas have to confirm as the configuration says. What a script
    /// refused needs nobody's confirmation.
    pub(super) async fn confirmed(&self, lane: Lane, call: &Call<'_>) -> Result<Answer, StoreError> {
        let budget = self.link.budget();
        let needed = self.confirming;
        if needed == 0 {
            return self.run(lane, call, budget).await;
        }
        let lane = if lane == Lane::Write { Lane::Confirm } else { lane };
        let Confirmed { value, confirmed, made } = self.link.run_confirmed(lane, call, needed, budget).await?;
        let answer = self.heard((value, made))?;
        let found = match (&answer, confirmed) {
            (Answer::Ok(..), Ok(Value::Int(found))) if found >= i64::from(needed) => return Ok(answer),
            (Answer::Ok(..), Ok(Value::Int(found))) => {
                format!("confirmed by {found} of {needed} replicas within {LONGEST_WAIT:?}")
            }
            (Answer::Ok(..), Ok(_)) => return Err(unexpected("a number")),
            (Answer::Ok(..), Err(failure)) => format!("not confirmed by {needed} replicas ({failure})"),
            _ => return Ok(answer),
        };
        Err(StoreError::Unavailable(format!(
            "written, but {found}; whether it lasts is not known. Repeat it, and check the Redis replicas"
        )))
    }

    /// Runs a script that writes what may be lost, in the history `known` and no other: a check may have found
    /// another one since the caller asked. Its arguments come after the incarnation.
    async fn unconfirmed(
        &self,
        script: &Script,
        keys: &ShardKeys,
        known: Known,
        args: Vec<Vec<u8>>,
    ) -> Result<Values, StoreError> {
        let args: Vec<_> = std::iter::once(known.incarnation.to_vec()).chain(args).collect();
        let call = script.call(vec![keys.incarnation()], args);
        Ok(self.accepted(self.run(Lane::Ack, &call, self.link.budget()).await?)?.1)
    }
}

/// What `scripts/rows.lua` answers of a shard.
pub(super) fn standing(shard: u16, epoch: Epoch, mut values: Values) -> Result<Beaten, StoreError> {
    let (tail, settled, mut rows) = (values.number()?, values.number()? == 1, values.array()?);
    let mut members = Vec::new();
    while !rows.is_empty() {
        let (name, row) = (rows.bytes()?, rows.bytes()?);
        members.push(member(&name, &row).ok_or_else(|| damaged(shard, &name, &row))?);
    }
    Ok(Beaten { epoch, tail, settled, members })
}

/// What a write answers of the shard that it was written to.
pub(super) fn done(how: Beaten) -> Done {
    let Beaten { epoch, tail, settled, members } = how;
    Done { at: LogCursor { epoch, position: tail }, settled, members }
}

fn member(name: &[u8], row: &[u8]) -> Option<Member> {
    let id = MemberId(HEXLOWER.decode(name).ok()?.try_into().ok()?);
    let (beat, applied) = std::str::from_utf8(row).ok()?.split_once(':')?;
    Some(Member { id, beat: beat.parse().ok()?, applied: applied.parse().ok()? })
}

fn damaged(shard: u16, name: &[u8], row: &[u8]) -> StoreError {
    let (name, row) = (String::from_utf8_lossy(name), String::from_utf8_lossy(row));
    let error = CodecError::Damaged(format!("`{row}` where two numbers are written"));
    unreadable(format!("the member `{name}` in {}", ShardKeys::new(shard).members()), error)
}

fn hex(member: MemberId) -> String {
    HEXLOWER.encode(&member.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_they_are_written_and_nothing_else_is() {
        let id = MemberId([0xa5; 16]);
        let name = hex(id);
        assert_eq!(name, id.to_string());
        let row = |row: &str| member(name.as_bytes(), row.as_bytes());
        assert_eq!(row("7:9007199254740992"), Some(Member { id, beat: 7, applied: 9_007_199_254_740_992 }));
        for damaged in ["", "7", "7:", ":7", "7:8:9", "-7:8", "7:8.0", "1e3:4", "seven:8"] {
            assert_eq!(row(damaged), None, "{damaged}");
        }
        for damaged in ["", "a5", "A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5", &"a5".repeat(17)] {
            assert_eq!(member(damaged.as_bytes(), b"7:8"), None, "{damaged}");
        }
    }
}
