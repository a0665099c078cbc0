//! Writes a CheckResponse: what Envoy does with the request, or answers in its place.
//!
//! Everything is said in each of them, for an empty one lets a request pass. Texts are written once, where they
//! belong; a test holds the bytes to what the generated messages would be. No value of a header field that is
//! written here holds anything but visible ASCII and spaces.

use bytes::{BufMut as _, Bytes};
use prost::encoding::{self, WireType};

use crate::key::KeyRecord;
use crate::rpc::proxy::{Conclusion, Field, IDENTITY, PROBLEM, Refusal, StripCookie, Verdict, identity, is_identity};

/// What stands before a message in gRPC: whether it is compressed, and its length.
const PREFIX: [u8; 5] = [0; 5];
/// Bytes of a usual answer.
const USUAL: usize = 768;
/// `HeaderValueOption.append_action`. Envoy 1.37 would add to what the client sent, were this not said.
const OVERWRITE: i32 = 2;
/// `google.rpc.Status.code`.
const OK: i32 = 0;

/// The answer that `verdict` is about a request with these header fields, as gRPC frames it. A caller of `grpc` is
/// told in its own terms why it is refused.
pub(super) fn answer(verdict: &Verdict, fields: &[Field<'_>], grpc: bool) -> Bytes {
    let mut out = Vec::with_capacity(USUAL);
    out.put_slice(&PREFIX);
    match &verdict.conclusion {
        Conclusion::Key(held) => allowed(&mut out, Some(held.record()), verdict, fields),
        Conclusion::Anonymous => allowed(&mut out, None, verdict, fields),
        Conclusion::Refused(refusal) => denied(&mut out, refusal, verdict, grpc),
    }
    let length = u32::try_from(out.len() - PREFIX.len()).unwrap_or(u32::MAX);
    if let Some([_, prefix @ ..]) = out.first_chunk_mut::<{ PREFIX.len() }>() {
        *prefix = length.to_be_bytes();
    }
    out.into()
}

/// Status, `ok_response` and metadata.
fn allowed(out: &mut Vec<u8>, record: Option<&KeyRecord>, verdict: &Verdict, fields: &[Field<'_>]) {
    status(out, OK);
    let mut ok = Vec::with_capacity(USUAL);
    // Each of these is set or removed, never both: Envoy removes after it has set.
    let identity = record.map(identity);
    let values = identity.iter().flatten().filter(|(_, value)| !value.is_empty());
    for (name, value) in values.clone() {
        header(&mut ok, 2, name, value.as_bytes());
    }
    let rest = match &verdict.strip.cookie {
        StripCookie::Replace(rest) => settable(rest),
        StripCookie::Keep | StripCookie::Remove => None,
    };
    if let Some(rest) = &rest {
        header(&mut ok, 2, "cookie", rest);
    } else if verdict.strip.cookie != StripCookie::Keep {
        item(&mut ok, 5, "cookie");
    }
    for name in IDENTITY {
        if !values.clone().any(|(set, _)| *set == name) {
            item(&mut ok, 5, name);
        }
    }
    for name in &verdict.strip.headers {
        item(&mut ok, 5, name);
    }
    for field in fields.iter().filter(|field| is_identity(field.name)) {
        // The others were set or removed just now.
        if !IDENTITY.iter().any(|name| name.as_bytes() == field.name) {
            item(&mut ok, 5, field.name);
        }
    }
    for name in &verdict.strip.query {
        item(&mut ok, 8, name);
    }
    item(out, 3, ok);
    metadata(out, record, verdict);
}

/// Status, `denied_response` and metadata.
fn denied(out: &mut Vec<u8>, refusal: &Refusal, verdict: &Verdict, grpc: bool) {
    status(out, i32::from(refusal.grpc_status()));
    let mut denied = Vec::with_capacity(USUAL);
    let code = i32::from(refusal.status());
    begin(&mut denied, 1, encoding::int32::encoded_len(1, &code));
    encoding::int32::encode(1, &code, &mut denied);
    for (name, value) in refusal.headers() {
        header(&mut denied, 2, name.as_str(), value.as_bytes());
    }
    if grpc {
        // Envoy makes grpc-message of the body, and grpc-status of the HTTP status were it not said.
        header(&mut denied, 2, "grpc-status", refusal.grpc_status().to_string().as_bytes());
        item(&mut denied, 3, refusal.text());
    } else {
        header(&mut denied, 2, "content-type", PROBLEM.as_bytes());
        item(&mut denied, 3, refusal.problem());
    }
    item(out, 2, denied);
    metadata(out, None, verdict);
}

/// `CheckResponse.status`.
fn status(out: &mut Vec<u8>, code: i32) {
    if code == OK {
        item(out, 1, []);
    } else {
        begin(out, 1, encoding::int32::encoded_len(1, &code));
        encoding::int32::encode(1, &code, out);
    }
}

/// A `HeaderValueOption`.
fn header(out: &mut Vec<u8>, tag: u32, name: &str, value: &[u8]) {
    let field = item_len(1, name.len()) + item_len(2, value.len());
    begin(out, tag, item_len(1, field) + encoding::int32::encoded_len(3, &OVERWRITE));
    begin(out, 1, field);
    item(out, 1, name);
    item(out, 2, value);
    encoding::int32::encode(3, &OVERWRITE, out);
}

/// Those cookies that can be set: the texts of Envoy's messages are UTF-8, and cookies ASCII (RFC 6265, section
/// 4.1.1). None: none is left.
fn settable(cookies: &[u8]) -> Option<Vec<u8>> {
    let fits = |cookie: &&[u8]| cookie.iter().all(|byte| matches!(byte, b' '..=b'~'));
    let fitting: Vec<_> = cookies.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).filter(fits).collect();
    let rest = fitting.join(&b"; "[..]);
    (!rest.is_empty()).then_some(rest)
}

/// `CheckResponse.dynamic_metadata`: for access logs and filters behind this one. Never holds a secret.
fn metadata(out: &mut Vec<u8>, record: Option<&KeyRecord>, verdict: &Verdict) {
    let mut fields = Vec::with_capacity(USUAL);
    let realm = record.map(|record| &record.realm).or(verdict.realm.as_ref());
    if let Some(realm) = realm {
        text_entry(&mut fields, "realm", realm.as_str());
    }
    if let Some(record) = record {
        let owner = &record.owner.reference;
        text_entry(&mut fields, "key_id", record.id.digits());
        text_entry(&mut fields, "owner", owner.id());
        text_entry(&mut fields, "owner_kind", owner.kind().name());
        list_entry(&mut fields, "scopes", record.scopes.as_slice().iter().map(|scope| scope.as_str()));
    }
    // As the metrics have it: what was decided, and whether it holds.
    let (decision, refusal) = match (&verdict.conclusion, &verdict.would) {
        (Conclusion::Refused(refusal), _) | (_, Some(refusal)) => ("denied", Some(refusal)),
        (Conclusion::Key(_), None) => ("allowed", None),
        (Conclusion::Anonymous, None) => ("anonymous", None),
    };
    text_entry(&mut fields, "decision", decision);
    if let Some(refusal) = refusal {
        text_entry(&mut fields, "reason", refusal.reason().name());
    }
    bool_entry(&mut fields, "dry_run", verdict.dry_run);
    item(out, 4, fields);
}

/// An entry of a `Struct` with a `string_value`.
fn text_entry(out: &mut Vec<u8>, name: &str, text: impl AsRef<[u8]>) {
    let text = text.as_ref();
    let value = item_len(3, text.len());
    entry(out, name, value);
    item(out, 3, text);
}

/// An entry of a `Struct` with a `bool_value`.
fn bool_entry(out: &mut Vec<u8>, name: &str, flag: bool) {
    entry(out, name, encoding::bool::encoded_len(4, &flag));
    encoding::bool::encode(4, &flag, out);
}

/// An entry of a `Struct` with a `list_value` of texts.
fn list_entry<'a>(out: &mut Vec<u8>, name: &str, texts: impl Iterator<Item = &'a str> + Clone) {
    let values = texts.clone().map(|text| item_len(1, item_len(3, text.len()))).sum();
    entry(out, name, item_len(6, values));
    begin(out, 6, values);
    for text in texts {
        begin(out, 1, item_len(3, text.len()));
        item(out, 3, text);
    }
}

/// What stands before the `Value` of an entry of a `Struct`.
fn entry(out: &mut Vec<u8>, name: &str, value: usize) {
    begin(out, 1, item_len(1, name.len()) + item_len(2, value));
    item(out, 1, name);
    begin(out, 2, value);
}

/// A text, or a message that was written before.
fn item(out: &mut Vec<u8>, tag: u32, bytes: impl AsRef<[u8]>) {
    let bytes = bytes.as_ref();
    begin(out, tag, bytes.len());
    out.put_slice(bytes);
}

/// What stands before a text or a message.
fn begin(out: &mut Vec<u8>, tag: u32, len: usize) {
    encoding::encode_key(tag, WireType::LengthDelimited, out);
    encoding::encode_varint(len as u64, out);
}

/// How much [`item`] writes.
fn item_len(tag: u32, len: usize) -> usize {
    encoding::key_len(tag) + encoding::encoded_len_varint(len as u64) + len
}
