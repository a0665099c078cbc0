//! What the small parts of a check cost: `cargo bench --bench micro`.
#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up may stop")]

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use keyclasp::clock::Timestamp;
use keyclasp::hash::{Hasher, Keyring, Pepper};
use keyclasp::key::codec::{decode_record, encode_record};
use keyclasp::key::{
    Actor, Argon2Profile, Cidrs, Description, Implications, KeyId, KeyRecord, Metadata, Name, Owner, OwnerKind,
    OwnerRef, PepperId, Prefix, Principals, Question, Realm, Scope, Scopes, SecretBytes, decide,
};
use keyclasp::random::SeededEntropy;

#[path = "made.rs"]
mod made;

use made::{Made, Mode};

// As keyclasp has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn check(c: &mut Criterion) {
    let entropy = SeededEntropy::new(1);
    let pepper = PepperId::parse("p1").expect("a pepper's id");
    let keyring =
        Keyring::new(vec![Pepper::new(pepper.clone(), &SecretBytes::new([7; 32]))], &pepper).expect("a keyring");
    let hasher = Hasher::new(keyring, Argon2Profile::LIGHT, &entropy).expect("a hasher");
    let realm = Realm::parse("acme").expect("a realm");
    let owner = OwnerRef::parse(OwnerKind::User, "0b9d3c0e-6f5a-4c1d-9a51-3f7f0c2d8e11").expect("an owner");
    let id = KeyId::new(owner.bucket(&realm), [9; 15]);
    let (text, secret) = hasher.make(&Prefix::default(), id, &entropy).expect("a key");
    let parsed = text.parse().expect("a well-formed key");
    let now = Timestamp::from_millis(1_000_000);
    let record = KeyRecord {
        id,
        owner: Owner { reference: owner, display_name: Name::parse("").expect("a name") },
        realm: realm.clone(),
        name: Name::parse("nightly-report").expect("a name"),
        description: Description::parse("").expect("a description"),
        scopes: Scopes::parse(&["clusters:write", "nodes:read"]).expect("scopes"),
        prefix: Prefix::default(),
        created_at: now,
        created_by: Actor::parse("portal").expect("an actor"),
        not_before: None,
        expires_at: Some(Timestamp::MAX),
        revocation: None,
        suspensions: BTreeMap::new(),
        allowed_cidrs: Cidrs::default(),
        allowed_principals: Principals::default(),
        rotated_from: None,
        rotated_to: None,
        metadata: Metadata::default(),
        secret: secret.clone(),
        version: 1,
    };
    let bytes = encode_record(&record, None);
    let implications = Implications::default();
    let required = [Scope::parse("clusters:read").expect("a scope")];
    let question =
        Question { now, realm: Some(&realm), required_scopes: &required, source_address: None, source_principal: None };
    hasher.verify(&text, &parsed, &secret).expect("argon2");

    c.bench_function("read the text", |b| b.iter(|| black_box(&text).parse()));
    c.bench_function("check the tag", |b| b.iter(|| hasher.keyring().is_genuine(black_box(&parsed))));
    c.bench_function("recognize a text seen before", |b| {
        b.iter(|| {
            let text = black_box(&text);
            text.id().is_some_and(|id| hasher.recall(id, &hasher.digest(text)).is_some())
        })
    });
    c.bench_function("argon2, light", |b| b.iter(|| hasher.verify(black_box(&text), &parsed, &secret)));
    c.bench_function("decode the record", |b| b.iter(|| decode_record(id, black_box(&bytes))));
    c.bench_function("decide", |b| b.iter(|| decide(black_box(&record), &implications, black_box(&question))));
}

/// A whole check that is answered from memory, without the wire.
fn hit(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for mode in Mode::ALL {
        let made = runtime.block_on(Made::new(mode, 1, 1 << 20)).expect("a service");
        let text = made.texts.first().expect("a key");
        made.check(text).expect("a key that passes");
        let reads = made.reads();
        c.bench_function(&format!("a hit, {}", mode.name()), |b| b.iter(|| made.check(black_box(text))));
        let held = made.held().expect("metrics");
        assert_eq!((made.reads(), held.0), (reads, 1), "a check was not answered from memory");
    }
}

criterion_group!(benches, check, hit);
criterion_main!(benches);
