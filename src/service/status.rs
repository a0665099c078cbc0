//! The state of this replica. What an operator should know about it is in [`findings`].

mod findings;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::access::{Call, Right};
use super::error::Error;
use super::{Core, require_somewhere};
use crate::clock::Timestamp;
use crate::fence::{Size, Standing, Waits};
use crate::key::PepperId;
use crate::store::{Health, Identity, MemberId, StoreError};

/// The state of this replica.
#[derive(Debug, Clone)]
pub struct Status {
    /// Its clock.
    pub now: Timestamp,
    /// When it started.
    pub started_at: Timestamp,
    /// What and where the store is.
    pub store: Identity,
    /// Number of shards.
    pub shards: u16,
    /// What the store said just now, and how long that took.
    pub health: Result<(Health, Duration), StoreError>,
    /// The keyring, the current pepper first; with the number of records under each, if asked for.
    pub peppers: Vec<(PepperId, Option<u64>)>,
    /// What is in memory. None: nothing is kept.
    pub memory: Option<Size>,
    /// How this replica and others keep from each other what is out of date. None: it has the store for itself.
    pub fence: Option<FenceState>,
    /// What an operator should know.
    pub findings: Vec<Finding>,
}

/// How this replica stands among those that share its store.
#[derive(Debug, Clone)]
pub struct FenceState {
    /// How it is called among them.
    pub member: MemberId,
    /// The term of a lease.
    pub term: Duration,
    /// How each shard stands.
    pub shards: Vec<Standing>,
    /// What changes waited for.
    pub waits: Waits,
}

/// One thing that an operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// A stable name.
    pub code: &'static str,
    /// What is the case, and what it means.
    pub meaning: String,
    /// What to do about it.
    pub remedy: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Info,
    /// A promise is weaker than it could be.
    Warning,
    /// Something does not work.
    Error,
}

/// Telling the state of this replica.
#[derive(Debug, Clone)]
pub struct StatusReport {
    core: Arc<Core>,
    started_at: Timestamp,
}

impl StatusReport {
    pub(super) fn new(core: Arc<Core>) -> Self {
        let started_at = core.clock.now();
        Self { core, started_at }
    }

    /// The state of this replica.
    ///
    /// # Errors
    /// When the caller may not ask, or records were to be counted and the store did not answer.
    pub async fn status(&self, call: &Call, count_records: bool) -> Result<Status, Error> {
        require_somewhere(&call.principal, Right::ReadStatus)?;
        let core = &*self.core;
        let (now, before) = (core.clock.now(), core.clock.elapsed());
        let health = core.store.health(now).await.map(|health| (health, core.clock.elapsed().saturating_sub(before)));
        let fence = self.fence();
        let mut findings = findings::of(&health, fence.as_ref(), now);
        findings.extend(findings::dry_run(core.metrics.all_let_through()));
        let counts = if count_records { Some(self.count(now).await?) } else { None };
        let peppers: Vec<_> = core
            .hasher
            .keyring()
            .peppers()
            .map(|pepper| {
                let count = counts.as_ref().map(|counts| counts.get(pepper.id()).copied().unwrap_or_default());
                (pepper.id().clone(), count)
            })
            .collect();
        Ok(Status {
            now,
            started_at: self.started_at,
            store: core.store.identity(),
            shards: core.store.shards(),
            findings,
            health,
            peppers,
            memory: core.records.size(),
            fence,
        })
    }

    fn fence(&self) -> Option<FenceState> {
        let records = &self.core.records;
        let (member, term, waits) = (records.member()?, records.term()?, records.waits()?);
        Some(FenceState { member, term, waits, shards: records.standings() })
    }

    /// Whether the store answers: what readiness depends on.
    ///
    /// # Errors
    /// When it does not.
    pub async fn probe(&self) -> Result<Health, StoreError> {
        self.core.store.health(self.core.clock.now()).await
    }

    async fn count(&self, now: Timestamp) -> Result<BTreeMap<PepperId, u64>, Error> {
        let mut counts = BTreeMap::new();
        let mut cursor = None;
        loop {
            let page = self.core.store.scan(cursor, now).await?;
            // A store that answers from memory never waits: let others, and the deadline, have a turn.
            tokio::task::yield_now().await;
            for record in page.records {
                *counts.entry(record.secret.pepper).or_default() += 1;
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok(counts);
            }
        }
    }
}
