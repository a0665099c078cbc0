//! What a store promises, as it last said, for whoever watches: whether a crash of it loses what was answered OK, and
//! how many replicas follow it. Asks nobody.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Health;

/// What it last said.
#[derive(Debug, Default)]
pub struct Promised {
    durable: Gauge,
    replicas: Family<Labels, Gauge>,
}

impl Promised {
    /// Adds the metrics to `registry`, under its prefix, which is `keyclasp`.
    pub fn register(&self, registry: &mut Registry) {
        let help =
            "Whether a crash of the store loses nothing that was answered OK: 1, or 0 where it does or does not say";
        registry.register("store_durable", help, self.durable.clone());
        let help = "Replicas of the store: connected to the primary now, and needed to confirm a change";
        registry.register("store_replicas", help, self.replicas.clone());
    }

    /// It said this. One that is a replica itself says nothing of who follows.
    pub fn told(&self, health: &Health) {
        self.durable.set(i64::from(health.durability.is_durable()));
        if let Some(replication) = health.replication
            && health.role != "replica"
        {
            let gauge = |state| self.replicas.get_or_create(&Labels { state });
            gauge(State::Connected).set(replication.connected.into());
            gauge(State::Needed).set(replication.needed.into());
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    Connected,
    Needed,
}

impl EncodeLabelValue for State {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let name = match self {
            Self::Connected => "connected",
            Self::Needed => "needed",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}
