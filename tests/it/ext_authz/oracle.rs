//! An allow only ever follows a VALID decision for exactly the key, realm and scopes that the request and its
//! route named. Requests are made up of what is good and what is not; the oracle knows what was put where, asks the
//! use case itself, and knows nothing of how keys are found.

use std::collections::BTreeSet;
use std::sync::Arc;

use keyclasp::clock::Timestamp;
use keyclasp::key::{
    Actor, ApiKey, Caps, Cidrs, Description, Draft, Metadata, Name, Owner, OwnerKind, OwnerRef, Principals, Realm,
    Reason, Scope, Scopes,
};
use keyclasp::rpc::auth::{Anonymous, Caller};
use keyclasp::rpc::envoy::{Authorization, Limits};
use keyclasp::rpc::gateway::Judge as _;
use keyclasp::rpc::proto::envoy::config::core::v3 as core;
use keyclasp::rpc::proto::envoy::service::auth::v3 as auth;
use keyclasp::rpc::proto::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use keyclasp::rpc::proto::envoy::service::auth::v3::check_response::HttpResponse;
use keyclasp::rpc::proxy::{Decider, Proxy, ProxyMetrics, Settings, Source, Sources};
use keyclasp::service::Service;
use keyclasp::service::access::{Call, Grant, Principal, Realms, Role};
use keyclasp::service::validate::{Check, Outcome};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use prost::Message as _;

use crate::support::api::Api;

/// What Envoy asks.
#[derive(Debug, Clone, Default)]
pub(super) struct Asking {
    /// In the map.
    pub(super) headers: Vec<(&'static str, String)>,
    /// In `header_map`.
    pub(super) raw: Vec<(&'static str, String)>,
    pub(super) extensions: Vec<(&'static str, String)>,
    pub(super) path: String,
    pub(super) address: Option<&'static str>,
    pub(super) principal: &'static str,
}

impl Asking {
    /// As a CheckRequest.
    pub(super) fn message(&self) -> Vec<u8> {
        use core::address::Address;
        let address = self.address.map(|address| match address {
            "pipe" => Address::Pipe(core::Pipe {}),
            address => Address::SocketAddress(core::SocketAddress { address: address.to_owned() }),
        });
        let field = |(key, value): &(&str, String)| core::HeaderValue {
            key: (*key).to_owned(),
            raw_value: value.clone().into_bytes(),
            ..core::HeaderValue::default()
        };
        let http = HttpRequest {
            headers: self.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            path: self.path.clone(),
            host: "api.example.com".to_owned(),
            header_map: (!self.raw.is_empty())
                .then(|| core::HeaderMap { headers: self.raw.iter().map(field).collect() }),
        };
        let attributes = auth::AttributeContext {
            source: Some(Peer { address: Some(core::Address { address }), principal: self.principal.to_owned() }),
            request: Some(Request { http: Some(http) }),
            context_extensions: self
                .extensions
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        };
        auth::CheckRequest { attributes: Some(attributes) }.encode_to_vec()
    }
}

/// Where a text is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    ApiKey,
    Bearer,
    Basic,
    XApiKey,
    ApiKeyHeader,
    Query,
    Cookie,
    /// Where nobody looks.
    Elsewhere,
}

const PLACES: [Place; 8] = [
    Place::ApiKey,
    Place::Bearer,
    Place::Basic,
    Place::XApiKey,
    Place::ApiKeyHeader,
    Place::Query,
    Place::Cookie,
    Place::Elsewhere,
];

impl Place {
    /// The header field that it is in.
    const fn header(self) -> Option<&'static str> {
        match self {
            Self::ApiKey | Self::Bearer | Self::Basic => Some("authorization"),
            Self::XApiKey => Some("x-api-key"),
            Self::ApiKeyHeader => Some("api-key"),
            Self::Cookie => Some("cookie"),
            Self::Elsewhere => Some("x-other"),
            Self::Query => None,
        }
    }

    fn value(self, text: &str) -> String {
        match self {
            Self::ApiKey => format!("aPiKeY {text}"),
            Self::Bearer => format!("Bearer {text}"),
            Self::Basic => format!("basic {}", data_encoding::BASE64.encode(format!("me:{text}").as_bytes())),
            Self::Cookie => format!("key={text}"),
            Self::XApiKey | Self::ApiKeyHeader | Self::Elsewhere | Self::Query => text.to_owned(),
        }
    }
}

/// A text that is put somewhere: which one of the world's, where, and whether among the raw fields.
type Put = (usize, Place, bool);

#[derive(Debug, Clone)]
struct Case {
    puts: Vec<Put>,
    realm: Option<&'static str>,
    scopes: Option<&'static str>,
    optional: Option<&'static str>,
    dry_run: Option<&'static str>,
    stray: Option<&'static str>,
    address: Option<&'static str>,
    principal: &'static str,
    caller: usize,
}

fn case(texts: usize) -> impl Strategy<Value = Case> {
    use prop::sample::select;
    let one = move || (prop_oneof![3 => 0..2_usize, 2 => 0..texts], select(PLACES.to_vec()), any::<bool>());
    let puts = prop_oneof![
        1 => Just(Vec::new()),
        6 => one().prop_map(|put| vec![put]),
        // One text in two places, and two texts.
        2 => (one(), select(PLACES.to_vec())).prop_map(|(put, place)| vec![put, (put.0, place, put.2)]),
        2 => proptest::collection::vec(one(), 2..4),
    ];
    let realm = select(vec![Some("acme"), Some("acme"), Some("acme"), Some("other"), Some("nowhere"), Some(""), None]);
    let scopes = select(vec![None, Some(""), Some("a:read"), Some("a:write"), Some("b a:read"), Some("c"), Some("\"")]);
    let optional = select(vec![None, None, Some("false"), Some("true"), Some("yes")]);
    let dry_run = select(vec![None, None, None, Some("false"), Some("true"), Some("1")]);
    let stray = select(vec![None, None, None, Some("other.realm"), Some("keyclasp.scope"), Some("keyclasp.")]);
    let address = select(vec![None, Some("192.0.2.7"), Some("198.51.100.1"), Some("pipe"), Some("nonsense")]);
    let principal = select(vec!["", "spiffe://acme/a", "spiffe://acme/b"]);
    let caller = prop_oneof![8 => Just(0_usize), 1 => 0..4_usize];
    (puts, realm, scopes, (optional, dry_run), stray, address, principal, caller).prop_map(
        |(puts, realm, scopes, (optional, dry_run), stray, address, principal, caller)| Case {
            puts,
            realm,
            scopes,
            optional,
            dry_run,
            stray,
            address,
            principal,
            caller,
        },
    )
}

impl Case {
    fn asking(&self, texts: &[String]) -> Asking {
        let mut asking =
            Asking { address: self.address, principal: self.principal, path: "/x?a=b".to_owned(), ..Asking::default() };
        asking.headers.push(("accept", "*/*".to_owned()));
        for (text, place, raw) in &self.puts {
            let value = place.value(&texts[*text]);
            let Some(name) = place.header() else {
                asking.path += &format!("&key={value}");
                continue;
            };
            if *raw {
                asking.raw.push((name, value));
                continue;
            }
            // The map has one of each name: Envoy joins them.
            match asking.headers.iter_mut().find(|(known, _)| *known == name) {
                Some((_, there)) => *there += &format!("{}{value}", if name == "cookie" { "; " } else { "," }),
                None => asking.headers.push((name, value)),
            }
        }
        let route = [
            ("keyclasp.realm", self.realm),
            ("keyclasp.scopes", self.scopes),
            ("keyclasp.optional", self.optional),
            ("keyclasp.dry_run", self.dry_run),
            (self.stray.unwrap_or("other"), Some("acme")),
        ];
        asking.extensions = route.into_iter().filter_map(|(name, value)| Some((name, value?.to_owned()))).collect();
        asking
    }

    /// Whether a text that is put somewhere is taken for a key there.
    fn is_key(place: Place, text: &str) -> bool {
        match place {
            // Somebody else's token or password, where it does not look like a key.
            Place::Bearer | Place::Basic => text.starts_with("kc_") && text.len() == 3 + 22 + 1 + 60,
            Place::Elsewhere => false,
            _ => true,
        }
    }

    /// Whether the request may pass. Some(text): with that key; Some(None): without one.
    async fn expected(&self, world: &World) -> Option<Option<usize>> {
        let realm = self.realm.map(Realm::parse).transpose().ok()?;
        let scopes = self.scopes.unwrap_or_default().split(' ').filter(|scope| !scope.is_empty());
        let scopes: Vec<_> = scopes.map(Scope::parse).collect::<Result<_, _>>().ok()?;
        if self.scopes.is_some() && scopes.is_empty() {
            return None;
        }
        let flag = |said: Option<&str>| match said {
            None | Some("false") => Some(false),
            Some("true") => Some(true),
            Some(_) => None,
        };
        let (optional, dry_run) = (flag(self.optional)?, flag(self.dry_run)?);
        if self.stray.is_some_and(|stray| stray.starts_with("keyclasp.")) {
            return None;
        }
        // Neither does a dry run help somebody who may not ask.
        let call = world.callers[self.caller].as_ref().filter(|call| may(call, realm.as_ref()))?;
        match realm {
            Some(realm) => self.decided(world, call, &realm, &scopes, optional).await,
            None => None,
        }
        .or(dry_run.then_some(None))
    }

    async fn decided(
        &self,
        world: &World,
        call: &Call,
        realm: &Realm,
        scopes: &[Scope],
        optional: bool,
    ) -> Option<Option<usize>> {
        let keys: BTreeSet<_> = self
            .puts
            .iter()
            .filter(|(text, place, _)| Self::is_key(*place, &world.texts[*text]))
            .map(|(text, ..)| *text)
            .collect();
        // A key beside something else in one and the same field.
        let authorization = self.puts.iter().filter(|(_, place, _)| place.header() == Some("authorization"));
        let kinds: BTreeSet<_> =
            authorization.map(|(text, place, _)| Self::is_key(*place, &world.texts[*text])).collect();
        if keys.len() > 1 || kinds.len() > 1 {
            return None;
        }
        let Some(text) = keys.into_iter().next() else {
            return optional.then_some(None);
        };
        let check = Check {
            text: &ApiKey::new(world.texts[text].clone()),
            realm: Some(realm),
            required_scopes: scopes,
            source_address: self.address.and_then(|address| address.parse().ok()),
            source_principal: (!self.principal.is_empty()).then_some(self.principal),
        };
        let checked = world.service.validator.validate(call, &check).await;
        checked.is_ok_and(|checked| checked.outcome == Outcome::Valid).then_some(Some(text))
    }
}

/// Whether somebody may validate keys of a realm; of none in particular: of any.
fn may(call: &Call, realm: Option<&Realm>) -> bool {
    call.principal.grants.iter().any(|grant| {
        let here = match (&grant.realms, realm) {
            (Realms::All, _) | (_, None) => true,
            (Realms::Only(realms), Some(realm)) => realms.contains(realm),
        };
        grant.role == Role::Validator && here
    })
}

struct World {
    service: Service,
    /// Texts, the first two of which are good keys.
    texts: Vec<String>,
    /// The ids of those that are keys.
    ids: Vec<Option<String>>,
    callers: Vec<Option<Arc<Call>>>,
    authorization: Authorization,
    _api: Api,
}

fn caller(grants: Vec<Grant>) -> Arc<Call> {
    let principal = Principal { name: Actor::parse("envoy").unwrap(), grants, caps: Caps::default() };
    Arc::new(Call { principal: Arc::new(principal), origin: "192.0.2.1".into(), ends: None })
}

/// A good key, but for what a change does to it.
async fn make(service: &Service, change: impl FnOnce(&mut Draft)) -> (String, String) {
    let admin = caller(vec![Grant { role: Role::Admin, realms: Realms::All }]);
    let mut draft = Draft {
        realm: Realm::parse("acme").unwrap(),
        owner: Owner {
            reference: OwnerRef::parse(OwnerKind::User, "ada").unwrap(),
            display_name: Name::parse("").unwrap(),
        },
        name: Name::parse("a key").unwrap(),
        description: Description::parse("").unwrap(),
        scopes: Scopes::parse(&["a:write", "b"]).unwrap(),
        lifetime: None,
        not_before: None,
        allowed_cidrs: Cidrs::parse(&[] as &[&str]).unwrap(),
        allowed_principals: Principals::parse(&[] as &[&str]).unwrap(),
        metadata: Metadata::parse(std::iter::empty::<(&str, &str)>()).unwrap(),
    };
    change(&mut draft);
    let created = service.keys.create(&admin, draft, None).await.unwrap();
    (created.key.record.id.to_string(), created.text.unwrap().expose().to_owned())
}

impl World {
    /// Whose routes are of this realm unless they name one.
    async fn new(realm: Option<&str>) -> Self {
        let api = Api::embedded();
        let service = api.service.clone();
        let admin = caller(vec![Grant { role: Role::Admin, realms: Realms::All }]);
        let mut keys = vec![
            make(&service, |_| ()).await,
            make(&service, |draft| draft.scopes = Scopes::parse(&["*"]).unwrap()).await,
            make(&service, |draft| draft.realm = Realm::parse("other").unwrap()).await,
            make(&service, |draft| draft.scopes = Scopes::parse(&[] as &[&str]).unwrap()).await,
            make(&service, |draft| draft.allowed_cidrs = Cidrs::parse(&["192.0.2.0/24"]).unwrap()).await,
            make(&service, |draft| draft.allowed_principals = Principals::parse(&["spiffe://acme/a"]).unwrap()).await,
            make(&service, |draft| draft.not_before = Some(Timestamp::from_millis(4_000_000_000_000))).await,
        ];
        let (revoked, suspended) = (make(&service, |_| ()).await, make(&service, |_| ()).await);
        let reason = Reason::parse("").unwrap();
        service.keys.revoke(&admin, revoked.0.parse().unwrap(), reason.clone(), None).await.unwrap();
        service.keys.suspend(&admin, suspended.0.parse().unwrap(), reason, None).await.unwrap();
        keys.extend([revoked, suspended]);
        let (ids, mut texts): (Vec<_>, Vec<_>) = keys.into_iter().map(|(id, text)| (Some(id), text)).unzip();
        let flipped = texts[0].replace(char::is_numeric, "7");
        texts.extend([flipped, "nonsense".to_owned(), String::new(), format!("{}0", texts[0])]);
        let acme = || Realms::Only(vec![Realm::parse("acme").unwrap()]);
        let callers = vec![
            Some(caller(vec![Grant { role: Role::Validator, realms: Realms::All }])),
            Some(caller(vec![Grant { role: Role::Validator, realms: acme() }])),
            Some(caller(vec![Grant { role: Role::Issuer, realms: Realms::All }])),
            None,
        ];
        let names = ["apikey", "bearer", "basic", "x-api-key", "api-key", "query:key", "cookie:key"];
        let sources = Sources::new(names.map(|name| Source::parse(name).unwrap()));
        let realm = realm.map(|realm| Realm::parse(realm).unwrap());
        let settings = Settings { sources, realm, ..Settings::default() };
        let decider = Decider::new(service.clone(), settings, ProxyMetrics::new(), Proxy::Envoy);
        let authorization = Authorization::new(decider, Limits { message_bytes: 1 << 20, outage_is_error: true });
        Self { service, texts, ids, callers, authorization, _api: api }
    }

    /// What is answered to a request of one of the callers.
    async fn answer(&self, caller: usize, message: Vec<u8>) -> auth::CheckResponse {
        let caller = match &self.callers[caller] {
            Some(call) => Caller::Known(Arc::clone(call)),
            None => Caller::Refused(Anonymous::default()),
        };
        let framed = self.authorization.judge(caller, Ok(message.into())).await.expect("there is no outage");
        auth::CheckResponse::decode(&framed[5..]).unwrap()
    }
}

/// The id that an allowed request is given, and the names of what is removed. None: it is denied.
fn allowed(response: &auth::CheckResponse) -> Option<(Option<&str>, BTreeSet<&str>)> {
    match (response.status.as_ref().unwrap().code, response.http_response.as_ref().unwrap()) {
        (0, HttpResponse::OkResponse(ok)) => {
            let mut set = ok.headers.iter().filter_map(|option| option.header.as_ref());
            let id = set.find(|header| header.key == "x-keyclasp-key-id").map(|header| header.value.as_str());
            let removed = ok.headers_to_remove.iter().chain(&ok.query_parameters_to_remove);
            Some((id, removed.map(String::as_str).collect()))
        }
        (1.., HttpResponse::DeniedResponse(denied)) => {
            assert!((400..600).contains(&denied.status.as_ref().unwrap().code));
            None
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_allow_follows_a_valid_decision_for_what_was_named_and_nothing_else() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = runtime.block_on(World::new(None));
    let mut runner = TestRunner::new(Config { cases: 6000, failure_persistence: None, ..Config::default() });
    let seen = std::cell::RefCell::new([0; 3]);
    let outcome = runner.run(&case(world.texts.len()), |case| {
        let (expected, response) = runtime.block_on(async {
            let message = case.asking(&world.texts).message();
            (case.expected(&world).await, world.answer(case.caller, message).await)
        });
        let answered = allowed(&response);
        match (expected, answered) {
            (None, None) => seen.borrow_mut()[0] += 1,
            (Some(None), Some((None, _))) => seen.borrow_mut()[1] += 1,
            (Some(Some(text)), Some((Some(id), removed))) => {
                prop_assert_eq!(Some(id), world.ids[text].as_deref());
                let keys = case.puts.iter().filter(|(text, place, _)| Case::is_key(*place, &world.texts[*text]));
                for (_, place, _) in keys {
                    prop_assert!(removed.contains(place.header().unwrap_or("key")), "{place:?} keeps the key");
                }
                seen.borrow_mut()[2] += 1;
            }
            (expected, answered) => prop_assert!(false, "expected {expected:?}, answered {answered:?}"),
        }
        Ok(())
    });
    outcome.unwrap();
    let [denied, anonymous, allowed] = *seen.borrow();
    assert!(denied > 500 && anonymous > 20 && allowed > 200, "the cases are one-sided: {seen:?}");
}

/// What nobody meant: good requests with some bytes changed. The use case is asked again about what is still there,
/// read by the generated decoder.
#[test]
fn a_damaged_request_is_denied_or_still_names_the_key() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = runtime.block_on(World::new(None));
    let route = [("keyclasp.realm", "acme".to_owned()), ("keyclasp.scopes", "a:read".to_owned())];
    let asking = Asking {
        headers: vec![("x-api-key", world.texts[0].clone()), ("accept", "*/*".to_owned())],
        extensions: route.to_vec(),
        path: "/".to_owned(),
        ..Asking::default()
    };
    let good = asking.message();
    assert!(allowed(&runtime.block_on(world.answer(0, good.clone()))).is_some());
    let mut still = 0;
    for at in 0..good.len() {
        for byte in [0, b'\n', b'\r', 0x7f, 0x80, 0xff, good[at] ^ 1, good[at] ^ 0x20] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            let response = runtime.block_on(world.answer(0, bytes.clone()));
            if allowed(&response).is_none() {
                continue;
            }
            still += 1;
            let attributes = auth::CheckRequest::decode(&bytes[..]).expect("read, and not decoded").attributes.unwrap();
            let http = attributes.request.unwrap().http.unwrap();
            assert_eq!(http.headers.get("x-api-key"), Some(&world.texts[0]), "byte {at} is {byte}");
            assert_eq!(attributes.context_extensions.get("keyclasp.realm").map(String::as_str), Some("acme"));
            for name in attributes.context_extensions.keys().filter(|name| name.starts_with("keyclasp.")) {
                assert!(["keyclasp.realm", "keyclasp.scopes"].contains(&name.as_str()), "{name}");
            }
        }
    }
    assert!(still > 0, "some bytes do not matter");
}

/// The requests that fuzzing begins with, in which a text as long as a key stands for one.
#[test]
fn the_seeds_of_fuzzing_are_answered_as_their_names_say() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = runtime.block_on(World::new(Some("acme")));
    let placeholder = format!("kc_{}_{}", "K".repeat(22), "K".repeat(60)).into_bytes();
    let key = world.texts[0].as_bytes();
    let seeds = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/check_request")).unwrap();
    let (mut with_key, mut without) = (Vec::new(), Vec::new());
    for seed in seeds.map(|seed| seed.unwrap()) {
        let mut message = std::fs::read(seed.path()).unwrap();
        while let Some(at) = message.windows(key.len()).position(|part| part == placeholder) {
            message[at..at + key.len()].copy_from_slice(key);
        }
        let name = seed.file_name().into_string().unwrap();
        match allowed(&runtime.block_on(world.answer(0, message))) {
            // Those that fuzzing found have numbers for names.
            Some(_) if name.len() == 40 => {}
            Some((Some(_), _)) => with_key.push(name),
            Some((None, _)) => without.push(name),
            None => {}
        }
    }
    with_key.sort();
    without.sort();
    let expected = [
        "api-key",
        "apikey",
        "bearer",
        "body",
        "cookie",
        "header-map",
        "ipv6-principal",
        "merged",
        "pipe",
        "query",
        "spoofed",
        "x-api-key",
    ];
    assert_eq!(with_key, expected);
    assert_eq!(without, ["dry-run", "optional"]);
}
