//! request_id: what makes a call safe to repeat for 24 hours.
//!
//! The first call leaves an entry in its commit: which call it was (a digest of caller, realm,
//! method and request_id), a keyed digest of its content, and the key of its answer. A repeated
//! call with the same content gets that key again, without the secret; but it writes first, so
//! that whatever makes a write safe (disk, replicas, fence) is waited for again: the first call
//! may have been cut off before that.

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::Core;
use super::access::Call;
use super::error::{Error, ErrorKind};
use crate::clock::Timestamp;
use crate::key::codec::IdempotencyEntry;
use crate::key::{KeyId, Realm, RequestId};
use crate::store::Idempotency;

/// How long a request_id is remembered.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// A request_id with the call that it belongs to.
#[derive(Debug, Clone)]
pub(super) struct Token {
    slot: [u8; 32],
    canonical: Vec<u8>,
}

impl Token {
    pub(super) fn new(call: &Call, realm: &Realm, method: &str, id: &RequestId, canonical: Vec<u8>) -> Self {
        // None of the parts can hold a NUL.
        let slot = Sha256::new()
            .chain_update(call.principal.name.as_str())
            .chain_update([0])
            .chain_update(realm.as_str())
            .chain_update([0])
            .chain_update(method)
            .chain_update([0])
            .chain_update(id.as_str())
            .finalize()
            .into();
        Self { slot, canonical }
    }

    pub(super) const fn slot(&self) -> [u8; 32] {
        self.slot
    }

    /// The entry of the first call, whose answer is about `key_id`.
    pub(super) fn first(&self, core: &Core, key_id: KeyId, now: Timestamp) -> Idempotency {
        let content = core.hasher.keyring().idempotency_content(&self.canonical);
        let entry = IdempotencyEntry { content, key_id, expires_at: now.after(REMEMBERED) };
        Idempotency { slot: self.slot, entry, replay: false }
    }

    /// The same entry once more, if this call has the content of the first.
    pub(super) fn again(&self, core: &Core, entry: IdempotencyEntry) -> Result<Idempotency, Error> {
        if core.hasher.keyring().is_idempotency_content(&entry.content, &self.canonical) {
            Ok(Idempotency { slot: self.slot, entry, replay: true })
        } else {
            Err(Error::new(
                ErrorKind::RequestIdReused,
                "request_id: was used in the last 24 hours for a call with another content; choose a new one",
            ))
        }
    }
}
