//! The watch over the store: whether it may be used, and whether this process serves.

use std::sync::Arc;
use std::time::Duration;

use super::{Backend, Speaker};
use crate::clock::Clock;
use crate::config::LoadedKeyring;
use crate::fence::Fence;
use crate::rpc::ops::Readiness;
use crate::service::{Held, keyring};
use crate::store::guarded::Gate;
use crate::store::promised::Promised;
use crate::store::{Epoch, StoreError};

/// How often the store is asked whether it is there.
const PROBE_EVERY: Duration = Duration::from_millis(500);
/// How soon it is asked when a call was told of another history.
const PROBE_SOON: Duration = Duration::from_millis(25);
/// How often a store that is away is looked for.
const RETRY_EVERY: Duration = Duration::from_millis(100);
/// How soon it is looked whether a lease is held, when none is: then twice as late each time.
const LEASE_SOON: Duration = Duration::from_millis(10);

/// Watches over the store: checks it before it is used, and says when it is away and when it is
/// back. Ends only when the store must not be used.
pub(super) struct Keeper {
    pub(super) backend: Backend,
    pub(super) loaded: LoadedKeyring,
    pub(super) require_durable: bool,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) records: Arc<Fence<Held>>,
    pub(super) speaker: Speaker,
    pub(super) gate: Gate,
    pub(super) promised: Promised,
}

impl Keeper {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        // Why the store is away, as it was logged last: once and not twice a second.
        let mut away: Option<String> = None;
        // The histories that the store had when it passed its check. None: it has to pass it.
        let mut checked: Option<Vec<Epoch>> = None;
        // Whether it ever passed.
        let mut passed = false;
        let mut said: Option<Readiness> = None;
        // How soon it is looked again for a lease.
        let mut look = LEASE_SOON;
        let mut ticks = tokio::time::interval(PROBE_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let told = tokio::select! {
                _ = ticks.tick() => false,
                () = self.backend.changed(), if checked.is_some() => {
                    // Many calls may tell it, again and again.
                    ticks.reset_after(PROBE_SOON);
                    ticks.tick().await;
                    true
                }
            };
            let answer = match &checked {
                None => self.prepare().await.map(Some),
                Some(before) => match self.probe(told).await {
                    Ok(epochs) if before.starts_with(&epochs) => Ok(None),
                    // A new history may be another store, or one that was emptied: nothing goes there
                    // until it has passed.
                    Ok(_) => {
                        self.gate.set(false);
                        self.prepare().await.map(Some)
                    }
                    Err(error) => Err(error),
                },
            };
            match answer {
                Ok(fresh) => {
                    if let Some(epochs) = fresh {
                        tracing::info!("the store has passed its check");
                        self.gate.set(true);
                        self.records.beat_now();
                        (checked, passed) = (Some(epochs), true);
                    }
                    away = None;
                }
                // A store that never passed is a mistake of whoever started this. One that did pass
                // may become usable again, and until then nobody is served from it.
                Err(error @ StoreError::Refused(_)) if !passed => return Err(error.into()),
                Err(error) => {
                    self.gate.set(false);
                    checked = None;
                    let error = error.to_string();
                    if away.as_ref() != Some(&error) {
                        tracing::warn!(error, "the store is away");
                    }
                    away = Some(error);
                    ticks.reset_after(RETRY_EVERY);
                }
            }
            let readiness = self.readiness(away.as_deref());
            if readiness != Readiness::Ready && away.is_none() {
                ticks.reset_after(look);
                look = (look * 2).min(PROBE_EVERY);
            } else {
                look = LEASE_SOON;
            }
            if said.as_ref() != Some(&readiness) {
                self.speaker.say(readiness.clone()).await;
                said = Some(readiness);
            }
        }
    }

    /// Whether this process serves. One that holds leases goes on from memory while the store is away.
    fn readiness(&self, away: Option<&str>) -> Readiness {
        let leased = self.records.term().is_some();
        match away {
            _ if leased && self.records.holds_all() => Readiness::Ready,
            Some(why) => Readiness::NotReady(why.to_owned()),
            None if leased => Readiness::NotReady("no lease is held: the store has not confirmed one yet".to_owned()),
            None => Readiness::Ready,
        }
    }

    /// Whether the store may be used, and with this keyring; answers its histories.
    async fn prepare(&self) -> Result<Vec<Epoch>, StoreError> {
        self.backend.check().await?;
        let store = self.backend.store();
        keyring::reconcile(&*store, &self.loaded.keyring, &self.loaded.retired).await?;
        let health = store.health(self.clock.now()).await?;
        self.promised.told(&health);
        // What was checked, what the keyring was compared with and what answers now are one history.
        if self.backend.checked().is_some_and(|checked| checked != health.epochs) {
            return Err(StoreError::Unavailable("its history changed while it was checked".to_owned()));
        }
        if !health.durability.is_durable() {
            let durability = health.durability.text();
            if self.require_durable {
                return Err(StoreError::Refused(format!(
                    "store.require_durable: a crash of the store can lose changes that were answered OK: {durability}; \
                     set appendonly yes and appendfsync always on it, or store.require_durable = false"
                )));
            }
            tracing::warn!(durability, "a crash of the store can lose changes that were answered OK");
        }
        if let Some(replication) = health.replication {
            let (connected, wait) = (replication.connected, replication.text());
            if connected < replication.needed {
                tracing::warn!(
                    connected,
                    wait,
                    "replicas of the store are missing: no change is answered OK without them"
                );
            } else {
                tracing::info!(connected, wait, "replicas of the store");
            }
        }
        Ok(health.epochs)
    }

    /// The histories of the store as it is now: of all shards, if a call was `told` of another one.
    async fn probe(&self, told: bool) -> Result<Vec<Epoch>, StoreError> {
        let now = self.clock.now();
        let health = if told { self.backend.store().health(now).await? } else { self.backend.glance(now).await? };
        self.promised.told(&health);
        if health.role == "replica" {
            return Err(StoreError::Unavailable("it is a replica now, and takes no writes".to_owned()));
        }
        Ok(health.epochs)
    }
}
