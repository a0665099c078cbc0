//! `[fence]`: how long a replica may go on from memory.

use std::path::Path;
use std::time::Duration;

use super::setting::{Fault, Setting, section};
use super::source::Raw;

section! {
    /// What replicas on one Redis promise each other. A replica answers from memory while it holds a lease,
    /// which it renews five times in its term; whoever revokes a key waits for every replica to have heard of
    /// it, and for one that is silent until its lease has ended.
    ["fence"] pub(super) struct FenceSection {
        /// The term of a lease: how long a replica goes on without the Redis, and how long a revocation may wait
        /// for a replica that died without a word. The same for all replicas: stored at the first start, and
        /// changed by `keyclasp store set-lease`. Unset: as it is stored, 5 s in a new store.
        lease: Option<Lease>,
    }
    check |_, _| {}
}

/// The term of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease(Duration);

impl Lease {
    /// Shorter ones would be lost to a busy machine again and again.
    const SHORTEST: Duration = Duration::from_millis(100);
    /// Who revokes a key should not wait longer.
    const LONGEST: Duration = Duration::from_secs(60);

    /// Parses a duration such as `5s`.
    ///
    /// # Errors
    /// When it is none, or not from 100 ms to 60 s.
    pub fn parse(text: &str) -> Result<Self, crate::key::Invalid> {
        let lease = humantime::parse_duration(text).ok().filter(|span| (Self::SHORTEST..=Self::LONGEST).contains(span));
        lease.map(Self).ok_or_else(|| crate::key::Invalid::new("write a duration from 100ms to 60s, such as 5s"))
    }

    /// The term.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl Setting for Lease {
    fn form() -> String {
        "a duration from 100ms to 60s".to_owned()
    }

    fn example() -> String {
        "\"5s\"".to_owned()
    }

    fn parse(value: &Raw, _: &Path) -> Result<Self, Fault> {
        super::types::text(value).and_then(|text| Self::parse(text).ok()).ok_or_else(Fault::form::<Self>)
    }
}
