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

use std::collections::BTreeMap;

use prost::Message as _;

use super::event::{Action, Event};
use super::fields::Fields;
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

/// Reads the record of `id`. Every check of a key comes here, so it reads the fields where they lie
/// and makes nothing but the values themselves.
///
/// # Errors
/// When the format is unknown or the bytes are damaged.
pub fn decode_record(id: KeyId, bytes: &[u8]) -> Result<Box<KeyRecord>, CodecError> {
    let header = Header::read(bytes)?;
    let (mut realm, mut owner_kind, mut owner_id, mut owner_name) = ("", 0, "", "");
    let (mut name, mut description, mut prefix, mut created_by) = ("", "", "", "");
    let (mut created_at, mut not_before, mut expires_at) = (0, 0, 0);
    let (mut scopes, mut cidrs, mut principals, mut metadata) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut rotated_from, mut rotated_to) = (&[][..], &[][..]);
    let (mut revocation, mut suspensions, mut secret) = (None, BTreeMap::new(), None);
    for field in Fields::of(bytes.get(HEADER_LEN..).unwrap_or_default()) {
        let (tag, value) = field?;
        match tag {
            1 => realm = value.text()?,
            2 => owner_kind = value.small()?,
            3 => owner_id = value.text()?,
            4 => owner_name = value.text()?,
            5 => name = value.text()?,
            6 => description = value.text()?,
            7 => scopes.push(value.text()?),
            8 => prefix = value.text()?,
            9 => created_at = value.number()?,
            10 => created_by = value.text()?,
            11 => not_before = value.number()?,
            12 => expires_at = value.number()?,
            13 => revocation = Some(decode_revocation(value.bytes()?)?),
            14 => suspensions.extend([decode_suspension(value.bytes()?)?]),
            15 => cidrs.push(value.text()?),
            16 => principals.push(value.text()?),
            17 => rotated_from = value.bytes()?,
            18 => rotated_to = value.bytes()?,
            19 => metadata.push(decode_pair(value.bytes()?)?),
            20 => secret = Some(decode_secret(value.bytes()?)?),
            _ => {}
        }
    }
    Ok(Box::new(KeyRecord {
        id,
        realm: Realm::parse(realm)?,
        owner: Owner { reference: owner(owner_kind, owner_id)?, display_name: Name::parse(owner_name)? },
        name: Name::parse(name)?,
        description: Description::parse(description)?,
        scopes: Scopes::parse(&scopes)?,
        prefix: Prefix::parse(prefix)?,
        created_at: Timestamp::from_millis(created_at),
        created_by: Actor::parse(created_by)?,
        not_before: time(not_before),
        expires_at: time(expires_at),
        revocation,
        suspensions,
        allowed_cidrs: Cidrs::parse(&cidrs)?,
        allowed_principals: Principals::parse(&principals)?,
        rotated_from: optional_id(rotated_from)?,
        rotated_to: optional_id(rotated_to)?,
        metadata: Metadata::parse(metadata)?,
        secret: secret.ok_or_else(|| CodecError::Damaged("no secret hash".to_owned()))?,
        version: header.version,
    }))
}

fn decode_revocation(bytes: &[u8]) -> Result<Revocation, CodecError> {
    let message = proto::Revocation::decode(bytes)?;
    Ok(Revocation {
        at: Timestamp::from_millis(message.at),
        by: Actor::parse(&message.by)?,
        reason: Reason::parse(&message.reason)?,
    })
}

fn decode_suspension(bytes: &[u8]) -> Result<(SuspensionReason, Suspension), CodecError> {
    let message = proto::Suspension::decode(bytes)?;
    let reason = SuspensionReason::from_number(message.reason).ok_or_else(|| unknown("suspension", message.reason))?;
    let suspension = Suspension {
        by: Actor::parse(&message.by)?,
        at: Timestamp::from_millis(message.at),
        until: time(message.until),
        note: Reason::parse(&message.note)?,
    };
    Ok((reason, suspension))
}

/// An entry of a map of texts.
fn decode_pair(bytes: &[u8]) -> Result<(&str, &str), CodecError> {
    let (mut key, mut value) = ("", "");
    for field in Fields::of(bytes) {
        match field? {
            (1, text) => key = text.text()?,
            (2, text) => value = text.text()?,
            _ => {}
        }
    }
    Ok((key, value))
}

fn decode_secret(bytes: &[u8]) -> Result<SecretHash, CodecError> {
    let (mut digest, mut profile, mut pepper) = (&[][..], Argon2Profile { m_kib: 0, t: 0, p: 0 }, "");
    for field in Fields::of(bytes) {
        match field? {
            (1, value) => digest = value.bytes()?,
            (2, value) => profile.m_kib = value.small()?,
            (3, value) => profile.t = value.small()?,
            (4, value) => profile.p = value.small()?,
            (5, value) => pepper = value.text()?,
            _ => {}
        }
    }
    Ok(SecretHash { digest: fixed(digest)?, profile, pepper: PepperId::parse(pepper)? })
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
