//! What the small parts of a check cost: `cargo bench --bench micro`.
#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up may stop")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use keyclasp::clock::Timestamp;
use keyclasp::hash::{Hasher, Keyring, Pepper};
use keyclasp::key::codec::{decode_record, encode_record};
use keyclasp::key::{
    Argon2Profile, Implications, KeyId, PepperId, Prefix, Question, Realm, Scope, SecretBytes, decide,
};
use keyclasp::random::SeededEntropy;
use keyclasp::rpc::envoy::request::CheckRequest;
use keyclasp::rpc::proto::envoy::service::auth::v3 as auth;
use prost::Message as _;

#[path = "made.rs"]
mod made;

use made::sample::{self, Own};
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
    let id = KeyId::new(sample::owner(1).expect("an owner").bucket(&realm), [9; 15]);
    let (text, secret) = hasher.make(&Prefix::default(), id, &entropy).expect("a key");
    let parsed = text.parse().expect("a well-formed key");
    let now = Timestamp::from_millis(1_000_000);
    let own = Own { id, created_at: now, expires_at: Timestamp::MAX, secret: secret.clone() };
    let record = sample::record(&realm, 1, own).expect("a record");
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

/// What Envoy asks, read where it lies, and by the generated decoder.
fn envoy(c: &mut Criterion) {
    // Written by Envoy's own description of it, with all that Envoy sends.
    let message = include_bytes!("../fuzz/seeds/check_request/bearer");
    let decoded = auth::CheckRequest::decode(&message[..]).expect("a CheckRequest");
    let scanned = CheckRequest::scan(message).expect("a CheckRequest");
    let http = decoded.attributes.and_then(|attributes| attributes.request?.http).expect("a request over HTTP");
    assert_eq!(scanned.fields().count(), http.headers.len());
    c.bench_function("read a CheckRequest", |b| b.iter(|| CheckRequest::scan(black_box(message)).is_ok()));
    c.bench_function("read a CheckRequest, generated decoder", |b| {
        b.iter(|| auth::CheckRequest::decode(black_box(&message[..])).is_ok())
    });
}

criterion_group!(benches, check, hit, envoy);
criterion_main!(benches);
