//! A caller's time bounds what the store is asked too: a Redis that accepts everything and answers nothing.

use std::time::Duration;

use keyclasp::rpc::proto::v1;
use keyclasp::rpc::proto::v1::key_service_client::KeyServiceClient;
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::support::eventually;
use crate::support::json::{call, call_within};
use crate::support::redis::RedisServer;
use crate::support::server::Keyclasp;

/// A small part of the two seconds after which the store gives its calls up: it would say something else.
const SHORT: Duration = Duration::from_millis(300);
/// How often the Redis is frozen anew, should a busy machine have been too slow for [`SHORT`].
const ATTEMPTS: usize = 20;

struct Frozen {
    server: Keyclasp,
    redis: RedisServer,
}

impl Frozen {
    fn create() -> Value {
        json!({"realm": "acme", "owner": {"kind": "OWNER_KIND_USER", "id": "u-1"}})
    }

    /// The text of a key that nobody has in memory.
    fn cold_key(&self) -> String {
        let (status, made) = call(self.server.listen(), &self.server.token(), "KeyService/CreateKey", &Self::create());
        assert_eq!(status, 200, "{made}");
        made["apiKey"].as_str().unwrap().to_owned()
    }

    /// Freezes the Redis for a call. What it comes to once `is_ours` knows it for the answer of who looks after
    /// the caller's time: later the service has noticed that its store is away, and refuses at once.
    fn while_frozen<T: std::fmt::Debug>(&mut self, mut call: impl FnMut(&Self, &str) -> T, is_ours: fn(&T) -> bool) {
        let mut answers = Vec::new();
        for _ in 0..ATTEMPTS {
            let key = self.cold_key();
            self.redis.freeze();
            let answer = call(self, &key);
            // What has no time left takes no place either, frozen as its Redis is.
            let idle = || self.server.get("/metrics").1.contains("keyclasp_rpc_in_flight 0\n").then_some(());
            assert!(eventually(Duration::from_secs(30), idle).is_some(), "{answer:?} is still in flight");
            self.redis.thaw();
            self.server.wait_ready();
            if is_ours(&answer) {
                self.cold_key();
                return;
            }
            answers.push(answer);
        }
        panic!("never an answer at the end of the caller's time: {answers:#?}");
    }
}

fn start() -> Frozen {
    let redis = RedisServer::start();
    let server = Keyclasp::set_up().store(&redis.url()).start();
    Frozen { server, redis }
}

#[test]
fn over_json_a_frozen_redis_does_not_hold_a_call_beyond_its_callers_time() {
    let mut frozen = start();
    let ours = |(status, error): &(u16, Value)| {
        assert!(*status != 200, "{error}");
        let reason = error["details"][0]["debug"]["reason"].as_str();
        (*status, error["code"].as_str(), reason) == (504, Some("deadline_exceeded"), Some("DEADLINE_EXCEEDED"))
    };
    let ask = |frozen: &Frozen, method: &str, request: &Value| {
        call_within(frozen.server.listen(), &frozen.server.token(), method, request, SHORT)
    };
    frozen.while_frozen(|frozen, _| ask(frozen, "KeyService/CreateKey", &Frozen::create()), ours);
    frozen.while_frozen(|frozen, key| ask(frozen, "KeyService/ValidateKey", &json!({"apiKey": key})), ours);
}

#[test]
fn over_grpc_a_frozen_redis_does_not_hold_a_call_beyond_its_callers_time() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut frozen = start();
    let endpoint = Endpoint::from_shared(frozen.server.endpoint()).unwrap();
    let client = KeyServiceClient::new(runtime.block_on(endpoint.connect()).unwrap());
    // The client watches over its time too, so that it has to be the text of the server.
    let ours = |status: &Status| {
        status.code() == Code::DeadlineExceeded && status.message().starts_with("the time for this call was up")
    };
    let create = v1::CreateKeyRequest {
        realm: "acme".to_owned(),
        owner: Some(v1::Owner { kind: v1::OwnerKind::User.into(), id: "u-1".to_owned(), display_name: String::new() }),
        ..v1::CreateKeyRequest::default()
    };
    let token = frozen.server.token();
    let known = |client: &KeyServiceClient<Channel>| (client.clone(), token.clone());
    frozen.while_frozen(
        |_, _| {
            let (mut client, token) = known(&client);
            runtime.block_on(client.create_key(within(SHORT, &token, create.clone()))).unwrap_err()
        },
        ours,
    );
    frozen.while_frozen(
        |_, key| {
            let (mut client, token) = known(&client);
            let check = v1::ValidateKeyRequest { api_key: key.to_owned(), ..v1::ValidateKeyRequest::default() };
            runtime.block_on(client.validate_key(within(SHORT, &token, check))).unwrap_err()
        },
        ours,
    );
}

/// A request of the admin, with `grpc-timeout`.
fn within<T>(timeout: Duration, token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request.set_timeout(timeout);
    request
}
