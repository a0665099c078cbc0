//! Writes a CheckResponse: what Envoy does with the request, or answers in its place.
//!
//! Everything is said in each of them, for an empty one lets a request pass. Texts are written once, where they
//! belong; a test holds the bytes to what the generated messages would be. No value of a header field that is
//! written here holds anything but visible ASCII and spaces.

use bytes::Bytes;
use prost::encoding;

use crate::key::{Brief, Realm};
use crate::rpc::proxy::{Conclusion, Field, IDENTITY, Identity, PROBLEM, Refusal, StripCookie, Verdict, is_identity};
use crate::rpc::written::{framed, item, nested};
use crate::service::Held;

/// Bytes of a usual answer.
const USUAL: usize = 768;
/// `HeaderValueOption.append_action`, OVERWRITE_IF_EXISTS_OR_ADD. Envoy 1.37 would add to what the client sent, were
/// this not said.
const OVERWRITE: i32 = 2;
/// `google.rpc.Status.code`.
const OK: i32 = 0;

/// The answer that `verdict` is about a request with these header fields, as gRPC frames it. A caller of `grpc` is
/// told in its own terms why it is refused.
pub(super) fn answer(verdict: &Verdict, fields: &[Field<'_>], grpc: bool) -> Bytes {
    let framed = framed(USUAL, |out| match &verdict.conclusion {
        Conclusion::Key(held) => allowed(out, Some(&Identity::of(held.brief())), verdict, fields),
        Conclusion::Anonymous => allowed(out, None, verdict, fields),
        Conclusion::Refused(refusal) => denied(out, refusal, verdict, grpc),
    });
    framed.into()
}

/// Status, `ok_response` and metadata.
fn allowed(out: &mut Vec<u8>, identity: Option<&Identity<'_>>, verdict: &Verdict, fields: &[Field<'_>]) {
    status(out, OK);
    let rest = match &verdict.strip.cookie {
        StripCookie::Replace(rest) => settable(rest),
        StripCookie::Keep | StripCookie::Remove => None,
    };
    nested(out, 3, |out| {
        // Each of these is set or removed, never both: Envoy removes after it has set.
        let identity = identity.map_or_else(|| IDENTITY.map(|name| (name, "")), Identity::fields);
        for (name, value) in identity.iter().filter(|(_, value)| !value.is_empty()) {
            header(out, 2, name, value.as_bytes());
        }
        if let Some(rest) = &rest {
            header(out, 2, "cookie", rest);
        } else if verdict.strip.cookie != StripCookie::Keep {
            item(out, 5, "cookie");
        }
        for (name, _) in identity.iter().filter(|(_, value)| value.is_empty()) {
            item(out, 5, name);
        }
        for name in verdict.strip.headers.names() {
            item(out, 5, name);
        }
        for field in fields.iter().filter(|field| is_identity(field.name)) {
            // The others were set or removed just now.
            if !IDENTITY.iter().any(|name| name.as_bytes() == field.name) {
                item(out, 5, field.name);
            }
        }
        for name in &verdict.strip.query {
            item(out, 8, name);
        }
    });
    metadata(out, verdict);
}

/// Status, `denied_response` and metadata.
fn denied(out: &mut Vec<u8>, refusal: &Refusal, verdict: &Verdict, grpc: bool) {
    status(out, i32::from(refusal.grpc_status()));
    nested(out, 2, |out| {
        nested(out, 1, |out| encoding::int32::encode(1, &i32::from(refusal.status()), out));
        for (name, value) in refusal.headers() {
            header(out, 2, name.as_str(), value.as_bytes());
        }
        if grpc {
            // Envoy makes grpc-message of the body, and grpc-status of the HTTP status were it not said.
            header(out, 2, "grpc-status", refusal.grpc_status().to_string().as_bytes());
            item(out, 3, refusal.text());
        } else {
            header(out, 2, "content-type", PROBLEM.as_bytes());
            item(out, 3, refusal.problem());
        }
    });
    metadata(out, verdict);
}

/// `CheckResponse.status`.
fn status(out: &mut Vec<u8>, code: i32) {
    nested(out, 1, |out| {
        // The default of a number is not written.
        if code != OK {
            encoding::int32::encode(1, &code, out);
        }
    });
}

/// A `HeaderValueOption`.
fn header(out: &mut Vec<u8>, tag: u32, name: &str, value: &[u8]) {
    nested(out, tag, |out| {
        nested(out, 1, |out| {
            item(out, 1, name);
            item(out, 2, value);
        });
        encoding::int32::encode(3, &OVERWRITE, out);
    });
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
fn metadata(out: &mut Vec<u8>, verdict: &Verdict) {
    // As the metrics have it: what was decided, and whether it holds.
    let (decision, refusal) = match (&verdict.conclusion, &verdict.would) {
        (Conclusion::Refused(refusal), _) | (_, Some(refusal)) => ("denied", Some(refusal)),
        (Conclusion::Key(_), None) => ("allowed", None),
        (Conclusion::Anonymous, None) => ("anonymous", None),
    };
    // Also of a key that was refused: whoever sent it knows its secret.
    let key = match &verdict.conclusion {
        Conclusion::Key(held) => Some(held.brief()),
        Conclusion::Anonymous | Conclusion::Refused(_) => verdict.record.as_deref().map(Held::brief),
    };
    nested(out, 4, |out| {
        text_entry(out, "decision", decision);
        entry(out, "dry_run", |out| encoding::bool::encode(4, &verdict.dry_run, out));
        if let Some(key) = key {
            text_entry(out, "key_id", key.key_id());
            text_entry(out, "owner", key.owner());
            text_entry(out, "owner_kind", key.owner_kind().name());
        }
        if let Some(realm) = key.map(Brief::realm).or(verdict.realm.as_ref().map(Realm::as_str)) {
            text_entry(out, "realm", realm);
        }
        if let Some(refusal) = refusal {
            text_entry(out, "reason", refusal.reason().name());
        }
        if let Some(key) = key {
            entry(out, "scopes", |out| scopes(out, key));
        }
    });
}

/// A `Value` that is the list of a key's scopes.
fn scopes(out: &mut Vec<u8>, key: &Brief) {
    nested(out, 6, |out| {
        for scope in key.each_scope() {
            nested(out, 1, |out| item(out, 3, scope));
        }
    });
}

/// An entry of a `Struct` with a `string_value`.
fn text_entry(out: &mut Vec<u8>, name: &str, text: impl AsRef<[u8]>) {
    entry(out, name, |out| item(out, 3, text));
}

/// An entry of a `Struct`, whose `Value` is as `write` writes it.
fn entry(out: &mut Vec<u8>, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
    nested(out, 1, |out| {
        item(out, 1, name);
        nested(out, 2, write);
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use prost::Message as _;
    use prost_types::value::Kind;

    use super::*;
    use crate::clock::Timestamp;
    use crate::fence::Hold as _;
    use crate::key::{KeyRecord, Owner, OwnerKind, OwnerRef, Scopes};
    use crate::rpc::proto::envoy::config::core::v3::HeaderValueOption;
    use crate::rpc::proto::envoy::service::auth::v3::check_response::HttpResponse;
    use crate::rpc::proto::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
    use crate::rpc::proxy::{Holder, Reason, Strip};
    use crate::store::conformance::sample::holder;
    use crate::store::{Epoch, Found};

    fn record(owner: &str, scopes: &[&str]) -> KeyRecord {
        let mut record = holder("acme", "ada").record(1, Timestamp::from_millis(1));
        record.owner = Owner { reference: OwnerRef::parse(OwnerKind::User, owner).unwrap(), ..record.owner };
        record.scopes = Scopes::parse(scopes).unwrap();
        record
    }

    fn verdict(conclusion: Conclusion) -> Verdict {
        let realm = Some(Realm::parse("acme").unwrap());
        Verdict { conclusion, strip: Strip::default(), would: None, dry_run: false, realm, record: None }
    }

    fn held(record: KeyRecord) -> Arc<Held> {
        Arc::new(Held::of(Found { record: Box::new(record), gone_at: None, epoch: Epoch([7; 32]) }))
    }

    fn key(record: KeyRecord) -> Verdict {
        verdict(Conclusion::Key(held(record)))
    }

    /// What was written, which is as the generated message writes itself.
    fn read(verdict: &Verdict, fields: &[(&str, &str)], grpc: bool) -> CheckResponse {
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| Field { name: name.as_bytes(), value: value.as_bytes() }).collect();
        let written = answer(verdict, &fields, grpc);
        let (prefix, message) = written.split_at(5);
        assert_eq!((prefix[0], u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize), (0, message.len()));
        let read = CheckResponse::decode(message).unwrap();
        assert_eq!(read.encode_to_vec(), message);
        for option in set(&read) {
            assert_eq!(option.append_action, OVERWRITE);
            let header = option.header.as_ref().unwrap();
            assert!(header.value.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{header:?}");
        }
        read
    }

    fn set(response: &CheckResponse) -> &[HeaderValueOption] {
        match response.http_response.as_ref().unwrap() {
            HttpResponse::OkResponse(ok) => &ok.headers,
            HttpResponse::DeniedResponse(denied) => &denied.headers,
        }
    }

    fn headers(response: &CheckResponse) -> Vec<(&str, &str)> {
        let headers = set(response).iter().map(|option| option.header.as_ref().unwrap());
        headers.map(|header| (header.key.as_str(), header.value.as_str())).collect()
    }

    fn ok(response: &CheckResponse) -> &OkHttpResponse {
        assert_eq!(response.status.as_ref().unwrap().code, 0);
        match response.http_response.as_ref().unwrap() {
            HttpResponse::OkResponse(ok) => ok,
            HttpResponse::DeniedResponse(_) => panic!("OK with a denial"),
        }
    }

    fn refused(response: &CheckResponse) -> &DeniedHttpResponse {
        assert_ne!(response.status.as_ref().unwrap().code, 0);
        match response.http_response.as_ref().unwrap() {
            HttpResponse::OkResponse(_) => panic!("a denial with OK"),
            HttpResponse::DeniedResponse(denied) => denied,
        }
    }

    fn told(response: &CheckResponse) -> Vec<String> {
        let fields = &response.dynamic_metadata.as_ref().unwrap().fields;
        let told = fields.iter().map(|(name, value)| match value.kind.as_ref().unwrap() {
            Kind::StringValue(text) => format!("{name}={text}"),
            Kind::BoolValue(flag) => format!("{name}={flag}"),
            Kind::ListValue(list) => {
                let texts = list.values.iter().map(|value| match value.kind.as_ref().unwrap() {
                    Kind::StringValue(text) => text.as_str(),
                    other => panic!("{other:?}"),
                });
                format!("{name}=[{}]", texts.collect::<Vec<_>>().join(","))
            }
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    #[test]
    fn an_allowed_request_says_whose_key_it_came_with() {
        let record = record("Zoë %", &["a:read", "b"]);
        let id = record.id.to_string();
        let response = read(&key(record), &[], false);
        let expected = [
            ("x-keyclasp-owner", "Zo%C3%AB%20%25"),
            ("x-keyclasp-owner-kind", "user"),
            ("x-keyclasp-key-id", &id),
            ("x-keyclasp-realm", "acme"),
            ("x-keyclasp-scopes", "a:read b"),
        ];
        assert_eq!(headers(&response), expected);
        assert!(ok(&response).headers_to_remove.is_empty() && ok(&response).query_parameters_to_remove.is_empty());
        let key_id = format!("key_id={id}");
        let told_expected = [
            "decision=allowed",
            "dry_run=false",
            &key_id,
            "owner=Zoë %",
            "owner_kind=user",
            "realm=acme",
            "scopes=[a:read,b]",
        ];
        assert_eq!(told(&response), told_expected);
    }

    #[test]
    fn what_is_not_set_is_removed_whatever_its_spelling() {
        let spoofed = [
            ("x-keyclasp-owner", "eve"),
            ("x_keyclasp_owner", "eve"),
            ("x-keyclasp_scopes", "*"),
            ("x-keyclasp-scopes", "*"),
            ("x-keyclasp-scope", "*"),
            ("accept", "a"),
        ];
        let response = read(&key(record("ada", &[])), &spoofed, false);
        assert_eq!(ok(&response).headers_to_remove, ["x-keyclasp-scopes", "x_keyclasp_owner", "x-keyclasp_scopes"]);
        assert_eq!(headers(&response).len(), 4);
        let response = read(&verdict(Conclusion::Anonymous), &spoofed, true);
        let expected: Vec<_> = IDENTITY.into_iter().chain(["x_keyclasp_owner", "x-keyclasp_scopes"]).collect();
        assert_eq!(ok(&response).headers_to_remove, expected);
        assert!(headers(&response).is_empty());
        assert_eq!(told(&response), ["decision=anonymous", "dry_run=false", "realm=acme"]);
    }

    #[test]
    fn the_key_is_taken_out_where_it_was() {
        let strip = |cookie| Strip {
            headers: [Holder::Authorization, Holder::XApiKey].into(),
            query: vec!["key".to_owned()],
            cookie,
        };
        let with = |cookie| Verdict { strip: strip(cookie), ..key(record("ada", &["a"])) };
        let response = read(&with(StripCookie::Remove), &[], false);
        assert_eq!(ok(&response).headers_to_remove, ["cookie", "authorization", "x-api-key"]);
        assert_eq!(ok(&response).query_parameters_to_remove, ["key"]);
        let response = read(&with(StripCookie::Replace(b"a=b; c=\xff; d=e\r\nf: g; h=".to_vec())), &[], false);
        assert_eq!(ok(&response).headers_to_remove, ["authorization", "x-api-key"]);
        assert_eq!(headers(&response).last(), Some(&("cookie", "a=b; h=")));
        let response = read(&with(StripCookie::Replace("a=ä".into())), &[], false);
        assert_eq!(ok(&response).headers_to_remove, ["cookie", "authorization", "x-api-key"]);
    }

    #[test]
    fn each_refusal_is_written_for_both_kinds_of_callers() {
        for reason in Reason::ALL {
            let refusal = Refusal::new(reason);
            for grpc in [false, true] {
                let response =
                    read(&verdict(Conclusion::Refused(refusal.clone())), &[("x-keyclasp-owner", "eve")], grpc);
                let denied = refused(&response);
                let code = denied.status.as_ref().unwrap().code;
                assert!((400..600).contains(&code), "{reason:?}");
                assert_eq!(code, i32::from(refusal.status()));
                assert_eq!(response.status.as_ref().unwrap().code, i32::from(refusal.grpc_status()));
                let headers = headers(&response);
                let header = |name| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
                assert_eq!(header("www-authenticate").is_some(), code == 401, "{reason:?}");
                assert_eq!(header("retry-after").is_some(), matches!(code, 429 | 503), "{reason:?}");
                let number = refusal.grpc_status().to_string();
                assert_eq!(header("grpc-status"), grpc.then_some(number.as_str()));
                assert_eq!(header("content-type"), (!grpc).then_some("application/problem+json"));
                assert_eq!(serde_json::from_str::<serde_json::Value>(&denied.body).is_ok(), !grpc, "{}", denied.body);
                assert!(!denied.body.is_empty() && denied.body.len() < 300);
                let reason = format!("reason={}", reason.name());
                assert_eq!(told(&response), ["decision=denied", "dry_run=false", "realm=acme", &reason]);
            }
        }
    }

    #[test]
    fn a_dry_run_says_what_it_would_have_refused() {
        let would = Some(Refusal::new(Reason::Expired));
        let response = read(&Verdict { would, dry_run: true, ..verdict(Conclusion::Anonymous) }, &[], false);
        assert_eq!(ok(&response).headers_to_remove, IDENTITY);
        assert_eq!(told(&response), ["decision=denied", "dry_run=true", "realm=acme", "reason=expired"]);
    }

    #[test]
    fn a_refused_key_is_named_where_its_secret_matched() {
        let record = record("ada", &["a"]);
        let key_id = format!("key_id={}", record.id);
        let refused = verdict(Conclusion::Refused(Refusal::new(Reason::Revoked)));
        let response = read(&Verdict { record: Some(held(record)), ..refused }, &[], false);
        let expected = [
            "decision=denied",
            "dry_run=false",
            &key_id,
            "owner=ada",
            "owner_kind=user",
            "realm=acme",
            "reason=revoked",
            "scopes=[a]",
        ];
        assert_eq!(told(&response), expected);
    }

    proptest! {
        /// Whatever a record holds: one list or the other, and nothing that ends a header field.
        #[test]
        fn a_name_is_set_or_removed_and_never_both(
            owner in "[^\\x00-\\x1f]{1,40}",
            scopes in proptest::collection::vec("[a-z:*]{1,8}", 0..4),
            names in proptest::collection::vec("x[-_]keyclasp[-_](owner|key[-_]id|realm|scopes|owner[-_]kind|other)", 0..8),
        ) {
            let Ok(reference) = OwnerRef::parse(OwnerKind::External, &owner) else { return Ok(()) };
            let Ok(scopes) = Scopes::parse(&scopes) else { return Ok(()) };
            let mut record = record("ada", &[]);
            record.owner.reference = reference;
            record.scopes = scopes;
            let fields: Vec<_> = names.iter().map(|name| (name.as_str(), "eve")).collect();
            for verdict in [key(record), verdict(Conclusion::Anonymous)] {
                let response = read(&verdict, &fields, false);
                let (set, removed) = (headers(&response), &ok(&response).headers_to_remove);
                let is_set = |name: &str| set.iter().any(|(set, _)| *set == name);
                for name in IDENTITY.into_iter().chain(names.iter().map(String::as_str).filter(|name| is_identity(name.as_bytes()))) {
                    prop_assert!(is_set(name) != removed.iter().any(|removed| removed == name), "{name}");
                }
            }
        }
    }
}
