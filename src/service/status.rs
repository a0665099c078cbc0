//! The state of this replica, and what an operator should know about it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::access::{Call, Right};
use super::error::Error;
use super::{Core, require_somewhere};
use crate::clock::Timestamp;
use crate::key::PepperId;
use crate::store::{Durability, Health, Identity, StoreError};

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
    /// What an operator should know.
    pub findings: Vec<Finding>,
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

/// A clock offset beyond this is worth a finding: expiry is decided by each replica's own clock.
const MAX_CLOCK_OFFSET: Duration = Duration::from_secs(1);
/// A store fuller than this is worth a finding.
const FULLNESS: f64 = 0.85;

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
            findings: match &health {
                Ok((health, latency)) => findings(health, *latency, now),
                Err(error) => vec![unreachable(error)],
            },
            health,
            peppers,
        })
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

fn unreachable(error: &StoreError) -> Finding {
    Finding {
        severity: Severity::Error,
        code: "STORE_UNREACHABLE",
        meaning: format!("{error}. No key can be made, changed or validated"),
        remedy: "start the store, or correct store.url; keyclasp goes on by itself as soon as it answers".to_owned(),
    }
}

/// What `health` means for an operator.
fn findings(health: &Health, latency: Duration, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    if health.evicts {
        findings.push(Finding {
            severity: Severity::Error,
            code: "STORE_EVICTS",
            meaning: "the store drops records when it is full: keys would vanish".to_owned(),
            remedy: "set maxmemory-policy to noeviction".to_owned(),
        });
    }
    if health.role == "replica" {
        findings.push(Finding {
            severity: Severity::Error,
            code: "STORE_IS_REPLICA",
            meaning: "the store is a replica and takes no writes".to_owned(),
            remedy: "point store.url at the primary".to_owned(),
        });
    }
    match &health.durability {
        Durability::Durable(_) => {}
        Durability::Lossy(text) => findings.push(Finding {
            severity: Severity::Warning,
            code: "STORE_NOT_DURABLE",
            meaning: format!("a crash of the store can lose changes that were answered OK, revocations too: {text}"),
            remedy: "set appendonly yes and appendfsync always, and store.require_durable = true to insist on it"
                .to_owned(),
        }),
        Durability::Unknown(text) => findings.push(Finding {
            severity: Severity::Warning,
            code: "STORE_DURABILITY_UNKNOWN",
            meaning: format!("the store does not say what a crash can lose: {text}"),
            remedy:
                "make sure that appendonly is yes and appendfsync is always, or that the service's contract says so"
                    .to_owned(),
        }),
    }
    if let Some(clock) = health.clock {
        let offset = clock.since(now).max(now.since(clock));
        if offset > MAX_CLOCK_OFFSET + latency {
            findings.push(Finding {
                severity: Severity::Warning,
                code: "CLOCK_OFFSET",
                meaning: format!(
                    "this replica's clock and the store's are {} apart: keys begin and end early or late by that much",
                    humantime::format_duration(offset)
                ),
                remedy: "synchronize both clocks (chrony, systemd-timesyncd)".to_owned(),
            });
        }
    }
    if let Some(fullness) = health.fullness
        && fullness > FULLNESS
    {
        findings.push(Finding {
            severity: Severity::Warning,
            code: "STORE_NEARLY_FULL",
            meaning: format!("the store is {:.0} % full; once it is full, no keys can be made", fullness * 100.0),
            remedy: "raise maxmemory, or shorten keys.retention".to_owned(),
        });
    }
    findings
}
