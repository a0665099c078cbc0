//! Whatever Envoy, or somebody in its place, asks: the answer is whole, it is a denial unless the request holds the
//! one good key (or its route says that none is needed), and nothing panics.
//!
//! The message is read a second time by the generated decoder. Chance makes no key, so a text of the length of one
//! stands for it in the corpus and is replaced by the real one before each run.

#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use keyclasp::clock::SystemClock;
use keyclasp::fence::{Fence, Member};
use keyclasp::hash::{Hasher, Keyring, Pepper};
use keyclasp::key::{
    Actor, Argon2Profile, Caps, Cidrs, Description, Draft, Metadata, Name, Owner, OwnerKind, OwnerRef, PepperId,
    Principals, Realm, Scopes, SecretBytes,
};
use keyclasp::random::OsEntropy;
use keyclasp::rpc::auth::Caller;
use keyclasp::rpc::envoy::request::CheckRequest;
use keyclasp::rpc::envoy::{Authorization, Limits};
use keyclasp::rpc::gateway::Judge as _;
use keyclasp::rpc::proto::envoy::service::auth::v3 as auth;
use keyclasp::rpc::proto::envoy::service::auth::v3::check_response::HttpResponse;
use keyclasp::rpc::proxy::{Decider, Proxy, ProxyMetrics, Settings, Source, Sources};
use keyclasp::service::access::{Call, Grant, Principal, Realms, Role};
use keyclasp::service::{Parts, Policies, Service, ServiceMetrics};
use keyclasp::store::embedded::EmbeddedConfig;
use keyclasp::store::{MemberId, Store};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use tokio::runtime::Runtime;

/// What stands for the key in the corpus: as long as one.
const PLACEHOLDER: &[u8] = b"kc_KKKKKKKKKKKKKKKKKKKKKK_KKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKK";

struct World {
    runtime: Runtime,
    authorization: Authorization,
    call: Arc<Call>,
    text: String,
}

static WORLD: LazyLock<World> = LazyLock::new(World::new);

fuzz_target!(|bytes: &[u8]| {
    let world = &*WORLD;
    let message = with_key(bytes, world.text.as_bytes());
    let scanned = CheckRequest::scan(&message);
    let decoded = auth::CheckRequest::decode(&message[..]);
    assert!(scanned.is_err() || decoded.is_ok(), "read, and not decoded");
    let caller = Caller::Known(Arc::clone(&world.call));
    let answering = world.authorization.judge(caller, Ok(message.clone().into()));
    let framed = world.runtime.block_on(answering).expect("there is no outage");
    let answer = auth::CheckResponse::decode(&framed[5..]).expect("a CheckResponse");
    let code = answer.status.expect("a status").code;
    assert!(answer.dynamic_metadata.is_some());
    let ok = match answer.http_response.expect("a response") {
        HttpResponse::DeniedResponse(denied) => {
            assert!(code != 0 && (400..600).contains(&denied.status.expect("a status").code));
            return;
        }
        HttpResponse::OkResponse(ok) => ok,
    };
    assert_eq!(code, 0);
    let attributes = decoded.expect("allowed, and not decoded").attributes.expect("allowed without attributes");
    let said = |name: &str| attributes.context_extensions.get(&format!("keyclasp.{name}")).map(String::as_str);
    let mut keyed = false;
    for header in ok.headers.iter().filter_map(|option| option.header.as_ref()) {
        assert!(!ok.headers_to_remove.contains(&header.key), "set and removed");
        assert!(header.value.bytes().all(|byte| matches!(byte, b' '..=b'~')));
        keyed |= header.key == "x-keyclasp-key-id";
    }
    if !keyed {
        assert!(said("optional") == Some("true") || said("dry_run") == Some("true"), "allowed without a key");
        return;
    }
    assert_eq!(said("realm").unwrap_or("acme"), "acme");
    let covered = |scope: &str| ["", "a:write", "a:read"].contains(&scope);
    assert!(said("scopes").unwrap_or_default().split(' ').all(covered), "allowed without a scope");
    let http = attributes.request.expect("a request").http.expect("a request over HTTP");
    let raw = http.header_map.unwrap_or_default().headers;
    let values = raw.iter().flat_map(|field| [field.value.as_bytes(), &field.raw_value]);
    let values = values.chain(http.headers.values().map(String::as_bytes)).chain([http.path.as_bytes()]);
    let holds = |value: &[u8]| {
        // The password of Basic is within base64.
        value.windows(world.text.len()).any(|part| part == world.text.as_bytes())
            || value.to_ascii_lowercase().windows(6).any(|part| part == b"basic ")
    };
    assert!(values.into_iter().any(holds), "allowed without the key");
});

/// `bytes` with the key in each place where something stands for it.
fn with_key(bytes: &[u8], key: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(PLACEHOLDER.len()).position(|part| part == PLACEHOLDER) {
        at += found;
        bytes[at..at + PLACEHOLDER.len()].copy_from_slice(key);
        at += PLACEHOLDER.len();
    }
    bytes
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let dir = std::env::temp_dir().join(format!("keyclasp-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let store: Arc<dyn Store> = Arc::new(EmbeddedConfig::new(&dir).open(&OsEntropy).expect("a store"));
        let id = PepperId::parse("p1").expect("a pepper's id");
        let keyring = Keyring::new(vec![Pepper::new(id.clone(), &SecretBytes::new([7; 32]))], &id).expect("a keyring");
        let clock = Arc::new(SystemClock::new());
        let member = Member { id: MemberId([1; 16]), clock: clock.clone() };
        let profile = Argon2Profile { m_kib: 8, t: 1, p: 1 };
        let service = Service::new(Parts {
            records: Arc::new(Fence::new(Arc::clone(&store), 1 << 20, member)),
            store,
            hasher: Arc::new(Hasher::new(keyring, profile, &OsEntropy).expect("a hasher")),
            clock,
            entropy: Arc::new(OsEntropy),
            policies: Policies::default(),
            retention: Duration::from_secs(3600),
            metrics: ServiceMetrics::new(),
        });
        let grants = vec![Grant { role: Role::Admin, realms: Realms::All }];
        let principal = Principal { name: Actor::parse("envoy").expect("a name"), grants, caps: Caps::default() };
        let call = Arc::new(Call { principal: Arc::new(principal), origin: "192.0.2.1".into(), ends: None });
        let none: [&str; 0] = [];
        let draft = Draft {
            realm: Realm::parse("acme").expect("a realm"),
            owner: Owner {
                reference: OwnerRef::parse(OwnerKind::User, "ada").expect("an owner"),
                display_name: Name::parse("").expect("a name"),
            },
            name: Name::parse("").expect("a name"),
            description: Description::parse("").expect("a description"),
            scopes: Scopes::parse(&["a:write"]).expect("scopes"),
            lifetime: None,
            not_before: None,
            allowed_cidrs: Cidrs::parse(&none).expect("networks"),
            allowed_principals: Principals::parse(&none).expect("principals"),
            metadata: Metadata::parse(std::iter::empty::<(&str, &str)>()).expect("metadata"),
        };
        let created = runtime.block_on(service.keys.create(&call, draft, None)).expect("a key");
        let text = created.text.expect("its text").expose().to_owned();
        assert_eq!(text.len(), PLACEHOLDER.len());
        let names = ["apikey", "bearer", "basic", "x-api-key", "api-key", "query:key", "cookie:key"];
        let settings = Settings {
            sources: Sources::new(names.map(|name| Source::parse(name).expect("a source"))),
            realm: Some(Realm::parse("acme").expect("a realm")),
            ..Settings::default()
        };
        let decider = Decider::new(service, settings, ProxyMetrics::new(), Proxy::Envoy);
        let authorization = Authorization::new(decider, Limits { message_bytes: 1 << 20, outage_is_error: true });
        Self { runtime, authorization, call, text }
    }
}
