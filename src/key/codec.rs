//! How a record, an event and an idempotency entry are written as bytes.
//!
//! A record is a fixed header that a store's script can read without knowing protobuf, then the
//! message `keyclasp.store.v1.Record`:
//!
//! | bytes | content |
//! |---|---|
//! | 0 | format: 1 |
//! | 1–8 | version of the record, big-endian |
//! | 9–16 | when the record goes, milliseconds since the Unix epoch, big-endian; 0: not in sight |
//!
//! Stored data is an API. A reader refuses a format that it does not know, and says so, rather
//! than guess.

use prost::Message as _;

use super::event::{Action, Event};
use super::id::KeyId;
use super::owner::{Owner, OwnerKind, OwnerRef};
use super::record::{Argon2Profile, KeyRecord, PepperId, Revocation, SecretHash, Suspension, SuspensionReason};
use super::scope::Scopes;
use super::text::Prefix;
use super::values::{Actor, Cidrs, Description, Invalid, Metadata, Name, Principals, Realm, Reason};
use crate::clock::Timestamp;

mod proto {
    #![expect(unreachable_pub, reason = "generated; documented in proto/keyclasp/store/v1")]
    include!(concat!(env!("OUT_DIR"), "/keyclasp.store.v1.rs"));
}

/// The format that this program writes.
pub const FORMAT: u8 = 1;
/// Bytes of the header.
pub const HEADER_LEN: usize = 17;

/// Stored bytes that this program cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Another program wrote it, most likely a newer one.
    #[error(
        "format {0} is not known to this version of keyclasp (it knows {FORMAT}); run the version that wrote it, or a newer one"
    )]
    UnknownFormat(u8),
    /// It is damaged.
    #[error("the stored bytes are damaged: {0}")]
    Damaged(String),
}

impl From<prost::DecodeError> for CodecError {
    fn from(error: prost::DecodeError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<Invalid> for CodecError {
    fn from(error: Invalid) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// The header of a stored record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Version of the record.
    pub version: u64,
    /// When the record goes.
    pub gone_at: Option<Timestamp>,
}

impl Header {
    /// Reads the header alone.
    ///
    /// # Errors
    /// When the format is unknown or the bytes are too few.
    pub fn read(bytes: &[u8]) -> Result<Self, CodecError> {
        let short = || CodecError::Damaged("shorter than a header".to_owned());
        match bytes.first() {
            None => return Err(short()),
            Some(&FORMAT) => {}
            Some(&format) => return Err(CodecError::UnknownFormat(format)),
        }
        let number = |at: usize| {
            bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes).ok_or_else(short)
        };
        Ok(Self { version: number(1)?, gone_at: time(number(9)?) })
    }

    /// Whether the record is absent at `now`, whatever the store still holds.
    #[must_use]
    pub fn is_gone(&self, now: Timestamp) -> bool {
        self.gone_at.is_some_and(|gone_at| gone_at <= now)
    }
}

/// Writes a record that goes at `gone_at`.
#[must_use]
pub fn encode_record(record: &KeyRecord, gone_at: Option<Timestamp>) -> Vec<u8> {
    let message = proto::Record {
        realm: record.realm.as_str().to_owned(),
        owner_kind: record.owner.reference.kind().number().into(),
        owner_id: record.owner.reference.id().to_owned(),
        owner_name: record.owner.display_name.as_str().to_owned(),
        name: record.name.as_str().to_owned(),
        description: record.description.as_str().to_owned(),
        scopes: record.scopes.as_slice().iter().map(ToString::to_string).collect(),
        prefix: record.prefix.as_str().to_owned(),
        created_at: record.created_at.as_millis(),
        created_by: record.created_by.as_str().to_owned(),
        not_before: millis(record.not_before),
        expires_at: millis(record.expires_at),
        revocation: record.revocation.as_ref().map(|revocation| proto::Revocation {
            at: revocation.at.as_millis(),
            by: revocation.by.as_str().to_owned(),
            reason: revocation.reason.as_str().to_owned(),
        }),
        suspensions: record
            .suspensions
            .iter()
            .map(|(reason, suspension)| proto::Suspension {
                reason: reason.number().into(),
                by: suspension.by.as_str().to_owned(),
                at: suspension.at.as_millis(),
                until: millis(suspension.until),
                note: suspension.note.as_str().to_owned(),
            })
            .collect(),
        allowed_cidrs: record.allowed_cidrs.texts().collect(),
        allowed_principals: record.allowed_principals.as_slice().to_vec(),
        rotated_from: id_bytes(record.rotated_from),
        rotated_to: id_bytes(record.rotated_to),
        metadata: record.metadata.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        secret: Some(proto::SecretHash {
            digest: record.secret.digest.to_vec(),
            m_kib: record.secret.profile.m_kib,
            t: record.secret.profile.t,
            p: record.secret.profile.p,
            pepper: record.secret.pepper.as_str().to_owned(),
        }),
    };
    let mut bytes = Vec::with_capacity(HEADER_LEN + message.encoded_len());
    bytes.push(FORMAT);
    bytes.extend_from_slice(&record.version.to_be_bytes());
    bytes.extend_from_slice(&millis(gone_at).to_be_bytes());
    bytes.extend_from_slice(&message.encode_to_vec());
    bytes
}

/// Reads the record of `id`.
///
/// # Errors
/// When the format is unknown or the bytes are damaged.
pub fn decode_record(id: KeyId, bytes: &[u8]) -> Result<KeyRecord, CodecError> {
    let header = Header::read(bytes)?;
    let message = proto::Record::decode(bytes.get(HEADER_LEN..).unwrap_or_default())?;
    let secret = message.secret.ok_or_else(|| CodecError::Damaged("no secret hash".to_owned()))?;
    let suspensions = message
        .suspensions
        .into_iter()
        .map(|one| {
            let reason = SuspensionReason::from_number(one.reason).ok_or_else(|| unknown("suspension", one.reason))?;
            let suspension = Suspension {
                by: Actor::parse(&one.by)?,
                at: Timestamp::from_millis(one.at),
                until: time(one.until),
                note: Reason::parse(&one.note)?,
            };
            Ok::<_, CodecError>((reason, suspension))
        })
        .collect::<Result<_, _>>()?;
    Ok(KeyRecord {
        id,
        realm: Realm::parse(&message.realm)?,
        owner: Owner {
            reference: owner(message.owner_kind, &message.owner_id)?,
            display_name: Name::parse(&message.owner_name)?,
        },
        name: Name::parse(&message.name)?,
        description: Description::parse(&message.description)?,
        scopes: Scopes::parse(&message.scopes)?,
        prefix: Prefix::parse(&message.prefix)?,
        created_at: Timestamp::from_millis(message.created_at),
        created_by: Actor::parse(&message.created_by)?,
        not_before: time(message.not_before),
        expires_at: time(message.expires_at),
        revocation: message
            .revocation
            .map(|revocation| {
                Ok::<_, CodecError>(Revocation {
                    at: Timestamp::from_millis(revocation.at),
                    by: Actor::parse(&revocation.by)?,
                    reason: Reason::parse(&revocation.reason)?,
                })
            })
            .transpose()?,
        suspensions,
        allowed_cidrs: Cidrs::parse(&message.allowed_cidrs)?,
        allowed_principals: Principals::parse(&message.allowed_principals)?,
        rotated_from: optional_id(&message.rotated_from)?,
        rotated_to: optional_id(&message.rotated_to)?,
        metadata: Metadata::parse(message.metadata)?,
        secret: SecretHash {
            digest: fixed(&secret.digest)?,
            profile: Argon2Profile { m_kib: secret.m_kib, t: secret.t, p: secret.p },
            pepper: PepperId::parse(&secret.pepper)?,
        },
        version: header.version,
    })
}

/// Writes an event.
#[must_use]
pub fn encode_event(event: &Event) -> Vec<u8> {
    proto::AuditEvent {
        at: event.at.as_millis(),
        action: event.action.number().into(),
        actor: event.actor.as_str().to_owned(),
        realm: event.realm.as_str().to_owned(),
        key_id: event.key_id.as_bytes().to_vec(),
        owner_kind: event.owner.kind().number().into(),
        owner_id: event.owner.id().to_owned(),
        reason: event.reason.as_str().to_owned(),
        origin: event.origin.clone(),
        key_version: event.key_version,
        fields: event.fields.clone(),
        rotated_to: id_bytes(event.rotated_to),
    }
    .encode_to_vec()
}

/// Reads an event.
///
/// # Errors
/// When the bytes are damaged.
pub fn decode_event(bytes: &[u8]) -> Result<Event, CodecError> {
    let message = proto::AuditEvent::decode(bytes)?;
    Ok(Event {
        at: Timestamp::from_millis(message.at),
        action: Action::from_number(message.action).ok_or_else(|| unknown("action", message.action))?,
        actor: Actor::parse(&message.actor)?,
        realm: Realm::parse(&message.realm)?,
        key_id: KeyId::from_bytes(fixed(&message.key_id)?),
        owner: owner(message.owner_kind, &message.owner_id)?,
        reason: Reason::parse(&message.reason)?,
        origin: message.origin,
        key_version: message.key_version,
        fields: message.fields,
        rotated_to: optional_id(&message.rotated_to)?,
    })
}

/// What a request_id was answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyEntry {
    /// HMAC of the request's canonical bytes.
    pub content: [u8; 32],
    /// The key of the first answer.
    pub key_id: KeyId,
    /// When the entry is forgotten.
    pub expires_at: Timestamp,
}

/// Writes an idempotency entry.
#[must_use]
pub fn encode_idempotency(entry: &IdempotencyEntry) -> Vec<u8> {
    proto::IdempotencyEntry {
        content: entry.content.to_vec(),
        key_id: entry.key_id.as_bytes().to_vec(),
        expires_at: entry.expires_at.as_millis(),
    }
    .encode_to_vec()
}

/// Reads an idempotency entry.
///
/// # Errors
/// When the bytes are damaged.
pub fn decode_idempotency(bytes: &[u8]) -> Result<IdempotencyEntry, CodecError> {
    let message = proto::IdempotencyEntry::decode(bytes)?;
    Ok(IdempotencyEntry {
        content: fixed(&message.content)?,
        key_id: KeyId::from_bytes(fixed(&message.key_id)?),
        expires_at: Timestamp::from_millis(message.expires_at),
    })
}

fn millis(time: Option<Timestamp>) -> u64 {
    time.map_or(0, Timestamp::as_millis)
}

fn time(millis: u64) -> Option<Timestamp> {
    (millis != 0).then_some(Timestamp::from_millis(millis))
}

fn id_bytes(id: Option<KeyId>) -> Vec<u8> {
    id.map_or_else(Vec::new, |id| id.as_bytes().to_vec())
}

fn optional_id(bytes: &[u8]) -> Result<Option<KeyId>, CodecError> {
    if bytes.is_empty() { Ok(None) } else { fixed(bytes).map(|bytes| Some(KeyId::from_bytes(bytes))) }
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], CodecError> {
    bytes.try_into().map_err(|_| CodecError::Damaged(format!("{} bytes where {N} are written", bytes.len())))
}

fn owner(kind: u32, id: &str) -> Result<OwnerRef, CodecError> {
    let kind = OwnerKind::from_number(kind).ok_or_else(|| unknown("owner kind", kind))?;
    Ok(OwnerRef::parse(kind, id)?)
}

fn unknown(what: &str, number: u32) -> CodecError {
    CodecError::Damaged(format!("{what} {number} is not known"))
}
