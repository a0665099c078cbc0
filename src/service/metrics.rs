//! What the use cases count. Labels have few values, fixed when the process starts.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::validate::Outcome;
use crate::key::Action;

/// Counters of the use cases; clones count together.
#[derive(Debug, Clone)]
pub struct ServiceMetrics {
    outcomes: Family<OutcomeLabel, Counter>,
    /// The counters of `outcomes`, by number: the check path takes no lock.
    by_outcome: [Counter; Outcome::COUNT],
    mutations: Family<ActionLabel, Counter>,
    /// Requests that passed in a dry run and would have been refused.
    let_through: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: OutcomeValue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct OutcomeValue(Outcome);

impl EncodeLabelValue for OutcomeValue {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.name().encode(encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActionLabel {
    action: ActionValue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ActionValue(Action);

impl EncodeLabelValue for ActionValue {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.name().encode(encoder)
    }
}

impl ServiceMetrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let outcomes = Family::<OutcomeLabel, Counter>::default();
        let by_outcome =
            Outcome::ALL.map(|outcome| outcomes.get_or_create_owned(&OutcomeLabel { outcome: OutcomeValue(outcome) }));
        let mutations = Family::<ActionLabel, Counter>::default();
        for action in Action::ALL {
            mutations.get_or_create_owned(&ActionLabel { action: ActionValue(action) });
        }
        Self { outcomes, by_outcome, mutations, let_through: Counter::default() }
    }

    /// Puts them where `/metrics` finds them, under the registry's prefix, which is `keyclasp`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("validations", "Decisions of ValidateKey by outcome", self.outcomes.clone());
        registry.register("mutations", "Changes of keys by action", self.mutations.clone());
    }

    pub(super) fn decided(&self, outcome: Outcome) {
        if let Some(counter) = self.by_outcome.get(outcome.index()) {
            counter.inc();
        }
    }

    /// A dry run let a request through that would have been refused; who asks counts them in a metric of its own.
    pub(super) fn let_through(&self) {
        self.let_through.inc();
    }

    /// How many requests dry runs let through.
    pub(super) fn all_let_through(&self) -> u64 {
        self.let_through.get()
    }

    pub(super) fn mutated(&self, action: Action) {
        self.mutations.get_or_create_owned(&ActionLabel { action: ActionValue(action) }).inc();
    }
}

impl Default for ServiceMetrics {
    fn default() -> Self {
        Self::new()
    }
}
