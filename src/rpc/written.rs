//! The answer to a check as the wire writes it, straight from the record.
//!
//! The other methods make a message of a record first. On the check path that would be a copy of every
//! text; here each is written once, where it belongs. A test holds it to what the message would be.

use prost::encoding::{self, WireType};

use super::convert;
use crate::clock::Timestamp;
use crate::key::{KeyRecord, Metadata, Owner, Scope};

/// Bytes of a usual key: some texts, three times.
const USUAL: usize = 384;

/// What stands before a message in gRPC: whether it is compressed, and its length, which is filled in at
/// the end.
const PREFIX: [u8; 5] = [0; 5];

/// The wire type of texts and messages (protobuf, "Encoding").
const LENGTH_DELIMITED: u8 = 2;
/// Bytes of the longest varint.
const LONGEST_VARINT: usize = 10;

/// The message `keyclasp.v1.ValidateKeyResponse` with its prefix.
pub(super) fn answer(
    outcome: i32,
    record: Option<(&KeyRecord, Timestamp)>,
    missing_scopes: &[Scope],
    message: &str,
) -> Vec<u8> {
    framed(USUAL + message.len(), |out| {
        number(out, 1, outcome);
        if let Some((record, now)) = record {
            nested(out, 2, |out| key(out, record, now));
        }
        for scope in missing_scopes {
            item(out, 3, scope.as_str());
        }
        text(out, 4, message);
    })
}

/// A message as `write` writes it, in about `usual` bytes, with the prefix that it has in gRPC.
pub(super) fn framed(usual: usize, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(PREFIX.len() + usual);
    out.extend_from_slice(&PREFIX);
    write(&mut out);
    let length = u32::try_from(out.len() - PREFIX.len()).unwrap_or(u32::MAX);
    if let Some([_, prefix @ ..]) = out.first_chunk_mut::<{ PREFIX.len() }>() {
        *prefix = length.to_be_bytes();
    }
    out
}

/// The message `keyclasp.v1.Key` that `record` is at `now`.
fn key(out: &mut Vec<u8>, record: &KeyRecord, now: Timestamp) {
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
        item(out, 17, cidr);
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
}

/// A text; an empty one is not written.
fn text(out: &mut Vec<u8>, tag: u32, text: impl AsRef<[u8]>) {
    if !text.as_ref().is_empty() {
        item(out, tag, text);
    }
}

/// A text, or a message that was written before.
pub(super) fn item(out: &mut Vec<u8>, tag: u32, text: impl AsRef<[u8]>) {
    let text = text.as_ref();
    begin(out, tag, text.len());
    out.extend_from_slice(text);
}

/// What stands before a text, and before a message within a message.
fn begin(out: &mut Vec<u8>, tag: u32, len: usize) {
    // Nearly all of them: a byte each.
    if let (Ok(tag @ 1..=15), Ok(len @ 0..=127)) = (u8::try_from(tag), u8::try_from(len)) {
        out.extend_from_slice(&[tag << 3 | LENGTH_DELIMITED, len]);
    } else {
        encoding::encode_key(tag, WireType::LengthDelimited, out);
        encoding::encode_varint(len as u64, out);
    }
}

/// A message within a message, as `write` writes it. Its length, which stands before it, is known only then.
pub(super) fn nested(out: &mut Vec<u8>, tag: u32, write: impl FnOnce(&mut Vec<u8>)) {
    begin(out, tag, 0);
    let starts = out.len();
    write(out);
    let length = out.len() - starts;
    if let (Ok(length @ 0..=127), Some(place)) = (u8::try_from(length), out.get_mut(starts - 1)) {
        *place = length;
    } else {
        let mut bytes = Vec::with_capacity(LONGEST_VARINT);
        encoding::encode_varint(length as u64, &mut bytes);
        out.splice(starts - 1..starts, bytes);
    }
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
    nested(out, tag, |out| {
        number(out, 1, convert::owner_kind(owner.reference.kind()));
        text(out, 2, id);
        text(out, 3, display_name);
    });
}

fn metadata(out: &mut Vec<u8>, tag: u32, metadata: &Metadata) {
    for (name, value) in metadata.iter() {
        nested(out, tag, |out| {
            text(out, 1, name);
            text(out, 2, value);
        });
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::key::{
        Actor, Cidrs, Description, KeyId, Name, Owner, OwnerKind, OwnerRef, Principals, Reason, Revocation, Scopes,
        Suspension, SuspensionReason,
    };
    use crate::rpc::proto::v1;
    use crate::store::conformance::sample::holder;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_123);

    type Change = fn(&mut KeyRecord);

    /// What a record can hold, each alone; the last ones hold all of it.
    const CHANGES: [Change; 14] = [
        |_| (),
        |record| record.name = Name::parse("").unwrap(),
        |record| record.description = Description::parse("naïve 漢字 😀\nsecond line").unwrap(),
        |record| record.scopes = Scopes::parse(&[] as &[&str]).unwrap(),
        |record| record.scopes = Scopes::parse(&["a", "b:read", "*"]).unwrap(),
        |record| record.not_before = Some(Timestamp::MAX),
        |record| record.expires_at = Some(NOW),
        |record| {
            let (by, reason) = (Actor::parse("oidc:ops").unwrap(), Reason::parse("leaked").unwrap());
            record.revocation = Some(Revocation { at: NOW, by, reason });
        },
        |record| {
            for (reason, until) in
                [(SuspensionReason::Manual, None), (SuspensionReason::OwnerLocked, Some(Timestamp::MAX))]
            {
                let (by, note) = (Actor::parse("me").unwrap(), Reason::parse("").unwrap());
                record.suspensions.insert(reason, Suspension { by, at: NOW, until, note });
            }
        },
        |record| record.allowed_cidrs = Cidrs::parse(&["192.0.2.0/24", "2001:db8::/32"]).unwrap(),
        |record| record.allowed_principals = Principals::parse(&["spiffe://acme/a", "b"]).unwrap(),
        |record| {
            record.rotated_from = Some(KeyId::from_bytes([0; 16]));
            record.rotated_to = Some(KeyId::from_bytes([255; 16]));
        },
        |record| record.metadata = Metadata::parse([("a", ""), ("b", "c"), ("long", &*"x".repeat(200))]).unwrap(),
        |record| {
            let reference = OwnerRef::parse(OwnerKind::ServiceAccount, &"o".repeat(150)).unwrap();
            record.owner = Owner { reference, display_name: Name::parse("The Owner").unwrap() };
            record.version = u64::MAX;
        },
    ];

    fn check(record: &KeyRecord, missing: &[&str], message: &str) {
        let missing = Scopes::parse(missing).unwrap();
        let written = answer(9, Some((record, NOW)), missing.as_slice(), message);
        let expected = v1::ValidateKeyResponse {
            outcome: 9,
            key: Some(convert::record(record.clone(), NOW)),
            missing_scopes: missing.as_slice().iter().map(ToString::to_string).collect(),
            message: message.to_owned(),
        };
        let (prefix, body) = written.split_at(PREFIX.len());
        assert_eq!(prefix[0], 0);
        assert_eq!(u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize, body.len());
        assert_eq!(v1::ValidateKeyResponse::decode(body).unwrap(), expected);
        assert_eq!(body, expected.encode_to_vec());
    }

    #[test]
    fn what_is_written_is_what_the_message_would_be() {
        let mut all = holder("acme", "ada").record(1, NOW);
        for change in CHANGES {
            let mut record = holder("acme", "ada").record(1, NOW);
            change(&mut record);
            check(&record, &[], "a message");
            change(&mut all);
            check(&all, &["x:read", "y"], "");
        }
    }

    #[test]
    fn a_refusal_without_a_key_is_written_too() {
        let written = answer(3, None, &[], "there is no such key");
        let message = v1::ValidateKeyResponse::decode(&written[PREFIX.len()..]).unwrap();
        assert_eq!((message.outcome, message.key, message.message.as_str()), (3, None, "there is no such key"));
        let nothing = answer(0, None, &[], "");
        assert_eq!(nothing, PREFIX);
    }
}
