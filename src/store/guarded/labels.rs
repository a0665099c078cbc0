//! The labels of the metrics: which verb, and what a call came to.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

use crate::store::{Outcome, StoreError};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CallLabels {
    pub(super) verb: Verb,
    pub(super) result: CallResult,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct VerbLabels {
    pub(super) verb: Verb,
}

/// What was asked of the store; the three verbs of the pepper checks are one. In the order of
/// [`Self::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Verb {
    Get,
    Idempotency,
    Commit,
    List,
    Audit,
    Log,
    Scan,
    Peppers,
    Health,
    Beat,
    Members,
    Remove,
    Release,
    Settle,
    Barrier,
}

impl Verb {
    pub(super) const ALL: [Self; 15] = [
        Self::Get,
        Self::Idempotency,
        Self::Commit,
        Self::List,
        Self::Audit,
        Self::Log,
        Self::Scan,
        Self::Peppers,
        Self::Health,
        Self::Beat,
        Self::Members,
        Self::Remove,
        Self::Release,
        Self::Settle,
        Self::Barrier,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Idempotency => "idempotency",
            Self::Commit => "commit",
            Self::List => "list",
            Self::Audit => "audit",
            Self::Log => "log",
            Self::Scan => "scan",
            Self::Peppers => "peppers",
            Self::Health => "health",
            Self::Beat => "beat",
            Self::Members => "members",
            Self::Remove => "remove",
            Self::Release => "release",
            Self::Settle => "settle",
            Self::Barrier => "barrier",
        }
    }
}

impl EncodeLabelValue for Verb {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        EncodeLabelValue::encode(&self.name(), encoder)
    }
}

/// What a call came to. In the order of [`Self::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum CallResult {
    Ok,
    Conflict,
    Replay,
    OwnerFull,
    Unavailable,
    Full,
    Unreadable,
    Refused,
    Misuse,
}

impl CallResult {
    pub(super) const ALL: [Self; 9] = [
        Self::Ok,
        Self::Conflict,
        Self::Replay,
        Self::OwnerFull,
        Self::Unavailable,
        Self::Full,
        Self::Unreadable,
        Self::Refused,
        Self::Misuse,
    ];

    pub(super) const fn of_outcome(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Done(_) => Self::Ok,
            Outcome::Conflict => Self::Conflict,
            Outcome::Replay(_) => Self::Replay,
            Outcome::OwnerFull => Self::OwnerFull,
        }
    }

    pub(super) const fn of_error(error: &StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::Unavailable,
            StoreError::Full(_) => Self::Full,
            StoreError::Unreadable { .. } => Self::Unreadable,
            StoreError::Refused(_) => Self::Refused,
            StoreError::Misuse(_) => Self::Misuse,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Conflict => "conflict",
            Self::Replay => "replay",
            Self::OwnerFull => "owner_full",
            Self::Unavailable => "unavailable",
            Self::Full => "full",
            Self::Unreadable => "unreadable",
            Self::Refused => "refused",
            Self::Misuse => "misuse",
        }
    }
}

impl EncodeLabelValue for CallResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        EncodeLabelValue::encode(&self.name(), encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_is_found_at_its_own_place() {
        for (at, verb) in Verb::ALL.into_iter().enumerate() {
            assert_eq!(verb as usize, at);
        }
        for (at, result) in CallResult::ALL.into_iter().enumerate() {
            assert_eq!(result as usize, at);
        }
    }
}
