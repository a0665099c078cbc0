//! What is written is read back, and damage is an error, never a panic.

use keyclasp::clock::Timestamp;
use keyclasp::key::codec::{Header, decode_event, decode_record, encode_event, encode_record};
use keyclasp::key::{
    Action, Actor, Argon2Profile, Cidrs, Description, Event, KeyId, KeyRecord, Metadata, Name, Owner, OwnerKind,
    OwnerRef, PepperId, Prefix, Principals, Realm, Reason, Revocation, Scopes, SecretHash, Suspension,
    SuspensionReason,
};
use proptest::prelude::*;

fn text(min: usize, max: usize) -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof![8 => "[ -~]", 1 => "é", 1 => "漢", 1 => "😀"], min..=max)
        .prop_map(|characters| characters.concat())
}

fn time() -> impl Strategy<Value = Timestamp> {
    (1..=Timestamp::MAX.as_millis()).prop_map(Timestamp::from_millis)
}

fn actor() -> impl Strategy<Value = Actor> {
    text(1, 20).prop_map(|text| Actor::parse(&text).unwrap())
}

fn reason() -> impl Strategy<Value = Reason> {
    text(0, 40).prop_map(|text| Reason::parse(&text).unwrap())
}

fn id() -> impl Strategy<Value = KeyId> {
    any::<[u8; 16]>().prop_map(KeyId::from_bytes)
}

fn owner() -> impl Strategy<Value = OwnerRef> {
    (proptest::sample::select(OwnerKind::ALL.to_vec()), text(1, 40))
        .prop_map(|(kind, id)| OwnerRef::parse(kind, &id).unwrap())
}

fn suspension() -> impl Strategy<Value = (SuspensionReason, Suspension)> {
    (proptest::sample::select(SuspensionReason::ALL.to_vec()), actor(), time(), proptest::option::of(time()), reason())
        .prop_map(|(why, by, at, until, note)| (why, Suspension { by, at, until, note }))
}

fn record() -> impl Strategy<Value = KeyRecord> {
    let texts = (text(1, 30), text(0, 30), text(0, 30), text(0, 80), "[a-z][a-z0-9_]{0,10}[a-z0-9]");
    let times = (time(), proptest::option::of(time()), proptest::option::of(time()));
    let lists = (
        proptest::collection::vec("[!#-\\[\\]-~]{1,20}", 0..6),
        proptest::collection::vec(any::<[u8; 4]>(), 0..4),
        proptest::collection::vec(text(1, 30), 0..4),
        proptest::collection::btree_map("[ -~]{1,20}", "[ -~]{0,20}", 0..4),
        proptest::collection::btree_map(0_u8..4, suspension(), 0..4),
    );
    let links = (proptest::option::of(id()), proptest::option::of(id()));
    let ended = proptest::option::of((time(), actor(), reason()));
    let secret = (any::<[u8; 32]>(), any::<u32>(), any::<u32>(), any::<u32>(), "[a-z0-9-]{1,16}");
    ((id(), owner(), texts, actor()), (times, lists, links), (ended, secret, 1..u64::MAX)).prop_map(
        |((id, owner, texts, created_by), (times, lists, links), (ended, secret, version))| {
            let (realm, display_name, name, description, prefix) = texts;
            let (scopes, cidrs, principals, metadata, suspensions) = lists;
            let cidrs: Vec<_> = cidrs.into_iter().map(|bytes| std::net::IpAddr::from(bytes).to_string()).collect();
            let (digest, m_kib, t, p, pepper) = secret;
            KeyRecord {
                id,
                realm: Realm::parse(&realm).unwrap(),
                owner: Owner { reference: owner, display_name: Name::parse(&display_name).unwrap() },
                name: Name::parse(&name).unwrap(),
                description: Description::parse(&description).unwrap(),
                scopes: Scopes::parse(&scopes).unwrap(),
                prefix: Prefix::parse(&prefix).unwrap(),
                created_at: times.0,
                created_by,
                not_before: times.1,
                expires_at: times.2,
                revocation: ended.map(|(at, by, reason)| Revocation { at, by, reason }),
                suspensions: suspensions.into_values().collect(),
                allowed_cidrs: Cidrs::parse(&cidrs).unwrap(),
                allowed_principals: Principals::parse(&principals).unwrap(),
                rotated_from: links.0,
                rotated_to: links.1,
                metadata: Metadata::parse(&metadata).unwrap(),
                secret: SecretHash {
                    digest,
                    profile: Argon2Profile { m_kib, t, p },
                    pepper: PepperId::parse(&pepper).unwrap(),
                },
                version,
            }
        },
    )
}

proptest! {
    #[test]
    fn a_record_is_read_back(record in record(), gone_at in proptest::option::of(time())) {
        let bytes = encode_record(&record, gone_at);
        prop_assert_eq!(Header::read(&bytes), Ok(Header { version: record.version, gone_at }));
        prop_assert_eq!(decode_record(record.id, &bytes), Ok(Box::new(record)));
    }

    #[test]
    fn a_damaged_record_is_an_error_or_another_record(
        record in record(), at: proptest::sample::Index, to: u8, cut: proptest::sample::Index,
    ) {
        let mut bytes = encode_record(&record, None);
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = decode_record(record.id, &bytes);
        let _ = decode_record(record.id, &bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn an_event_is_read_back(
        at in time(), actor in actor(), realm in text(1, 30), key_id in id(), owner in owner(), reason in reason(),
        action in proptest::sample::select(Action::ALL.to_vec()), rotated_to in proptest::option::of(id()),
        fields in proptest::collection::vec("[a-z_]{1,12}", 0..4), key_version: u64, origin in "[0-9a-f:.]{0,20}",
    ) {
        let realm = Realm::parse(&realm).unwrap();
        let event = Event { at, action, actor, realm, key_id, owner, reason, origin, key_version, fields, rotated_to };
        prop_assert_eq!(decode_event(&encode_event(&event)), Ok(event));
    }
}
