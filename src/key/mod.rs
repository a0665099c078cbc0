//! What a key is: its text form, its record, its scopes, its life and the decision about it.
//!
//! Pure: no I/O, no clock of its own, no wire codes, no knowledge of where a record is stored.
//! Values are parsed once, at the edge ([`Realm::parse`], [`Scope::parse`], …); a value that exists
//! is valid.

mod base62;
mod brief;
pub mod canonical;
pub mod codec;
mod decision;
mod event;
mod fields;
mod id;
mod life;
mod owner;
mod policy;
mod record;
mod scope;
mod text;
mod values;

pub use brief::Brief;
pub use decision::{Decision, Question, decide};
pub use event::{Action, Event};
pub use id::{ID_LEN, KeyId};
pub use life::{Change, Draft, LifeError, Lifetime, Patch};
pub use owner::{Owner, OwnerKind, OwnerRef};
pub use policy::{Caps, Policy, PolicyViolation};
pub use record::{Argon2Profile, KeyRecord, PepperId, Revocation, SecretHash, Status, Suspension, SuspensionReason};
pub use scope::{Implications, Scope, Scopes};
pub use text::{ApiKey, Malformed, ParsedKey, Prefix, RANDOM_LEN, SecretBytes, TAG_LEN, render};
pub use values::{Actor, Cidrs, Description, Invalid, Metadata, Name, Principals, Realm, Reason, RequestId};

/// Longest grace that a rotation may give the old key.
pub const MAX_GRACE: std::time::Duration = std::time::Duration::from_secs(30 * 24 * 60 * 60);
