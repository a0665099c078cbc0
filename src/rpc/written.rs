//! A key as the wire writes it, straight from its record.
//!
//! The other methods make a message of a record first ([`message`]). On the check path that would be a
//! text copied for every field; here each is written once, where it belongs. A property test holds the
//! two together.

use bytes::{BufMut, Bytes};
use prost::encoding::{self, WireType};

use super::convert;
use super::proto::v1;
use crate::clock::Timestamp;
use crate::key::{KeyRecord, Metadata, Owner};

/// Bytes of a usual key: some texts, three times.
const USUAL: usize = 384;

/// The message `keyclasp.v1.Key` that `record` is at `now`, written.
#[must_use]
pub fn key(record: &KeyRecord, now: Timestamp) -> Bytes {
    let mut out = Vec::with_capacity(USUAL);
    let out = &mut out;
    text(out, 1, record.id.digits());
    text(out, 2, record.realm.as_str());
    owner(out, 3, &record.owner);
    text(out, 4, record.name.as_str());
    text(out, 5, record.description.as_str());
    text(out, 6, record.prefix.as_str());
    for scope in record.scopes.as_slice() {
        item(out, 7, scope.as_str());
    }
    number(out, 8, convert::status(record.status(now)));
    for (reason, suspension) in &record.suspensions {
        encoding::message::encode(9, &convert::suspension(*reason, suspension), out);
    }
    time(out, 10, Some(record.created_at));
    text(out, 11, record.created_by.as_str());
    time(out, 12, record.not_before);
    time(out, 13, record.expires_at);
    if let Some(revocation) = &record.revocation {
        time(out, 14, Some(revocation.at));
        text(out, 15, revocation.by.as_str());
        text(out, 16, revocation.reason.as_str());
    }
    for cidr in record.allowed_cidrs.texts() {
        item(out, 17, &cidr);
    }
    for principal in record.allowed_principals.as_slice() {
        item(out, 18, principal);
    }
    for (tag, id) in [(19, record.rotated_from), (20, record.rotated_to)] {
        if let Some(id) = id {
            text(out, tag, id.digits());
        }
    }
    metadata(out, 21, &record.metadata);
    encoding::uint64::encode(22, &record.version, out);
    std::mem::take(out).into()
}

/// The same, as a message.
#[must_use]
pub fn message(record: KeyRecord, now: Timestamp) -> v1::Key {
    convert::record(record, now)
}

/// A text; an empty one is not written.
fn text(out: &mut Vec<u8>, tag: u32, text: impl AsRef<[u8]>) {
    if !text.as_ref().is_empty() {
        item(out, tag, text);
    }
}

/// A text of a list.
fn item(out: &mut Vec<u8>, tag: u32, text: impl AsRef<[u8]>) {
    let text = text.as_ref();
    begin(out, tag, text.len());
    out.put_slice(text);
}

/// What stands before a text, and before a message within a message.
fn begin(out: &mut Vec<u8>, tag: u32, len: usize) {
    encoding::encode_key(tag, WireType::LengthDelimited, out);
    encoding::encode_varint(len as u64, out);
}

fn number(out: &mut Vec<u8>, tag: u32, number: i32) {
    if number != 0 {
        encoding::int32::encode(tag, &number, out);
    }
}

fn time(out: &mut Vec<u8>, tag: u32, time: Option<Timestamp>) {
    if let Some(time) = time {
        encoding::message::encode(tag, &convert::time(time), out);
    }
}

fn owner(out: &mut Vec<u8>, tag: u32, owner: &Owner) {
    let (id, display_name) = (owner.reference.id(), owner.display_name.as_str());
    let kind = convert::owner_kind(owner.reference.kind());
    begin(out, tag, encoding::int32::encoded_len(1, &kind) + text_len(2, id) + text_len(3, display_name));
    number(out, 1, kind);
    text(out, 2, id);
    text(out, 3, display_name);
}

fn metadata(out: &mut Vec<u8>, tag: u32, metadata: &Metadata) {
    for (name, value) in metadata.iter() {
        begin(out, tag, text_len(1, name) + text_len(2, value));
        text(out, 1, name);
        text(out, 2, value);
    }
}

/// How much [`text`] writes.
fn text_len(tag: u32, text: &str) -> usize {
    if text.is_empty() {
        0
    } else {
        encoding::key_len(tag) + encoding::encoded_len_varint(text.len() as u64) + text.len()
    }
}
