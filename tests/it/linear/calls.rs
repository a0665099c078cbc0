//! Single calls of a run: what is sent, what the answer means, and where the replicas are now. When they are
//! made is the clients' business.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyclasp::rpc::proto::v1::key_service_client::KeyServiceClient;
use keyclasp::rpc::proto::v1::{self, KeyStatus, Outcome};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

use super::cluster::{REPLICAS, Shared};
use super::history::{Answer, Kind, Op, State};

/// The realm of all keys.
const REALM: &str = "acme";
/// From where all keys are presented.
const HERE: &str = "192.0.2.1";
/// Somewhere else.
const ELSEWHERE: &str = "198.51.100.0/24";
/// The deadline that calls name, most of them.
pub(super) const DEADLINE: Duration = Duration::from_secs(2);
/// Beyond it, for the answer to arrive.
const SLACK: Duration = Duration::from_millis(250);

/// A key that was made.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) number: u32,
    /// Number of its owner.
    pub(super) owner: u32,
    id: String,
    text: String,
}

/// Calls the replicas, by connections of its own.
#[derive(Debug)]
pub(super) struct Caller {
    shared: Arc<Shared>,
    /// By replica.
    stubs: Vec<Mutex<Option<Stub>>>,
}

/// The client of a replica, and where that was.
type Stub = (SocketAddr, KeyServiceClient<Channel>);

impl Caller {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), stubs: (0..REPLICAS).map(|_| Mutex::default()).collect() }
    }

    /// Makes a key that is called `number` here.
    pub(super) async fn create(&self, number: u32, owner: u32, replica: usize) -> (Op, Option<Made>) {
        let request = v1::CreateKeyRequest { realm: REALM.to_owned(), owner: Some(of(owner)), ..Default::default() };
        let mut stub = self.stub(replica);
        let start = self.shared.now();
        let answered = bounded(stub.create_key(self.request(request))).await;
        let end = self.shared.now();
        let (answer, made) = match answered {
            Ok(v1::CreateKeyResponse { key: Some(key), api_key }) => {
                (of_status(&key), Some(Made { number, owner, id: key.id, text: api_key }))
            }
            Ok(_) => (Answer::Wrong("no key".to_owned()), None),
            Err(status) => (of_error(&status), None),
        };
        (Op { key: Some(number), owner, kind: Kind::Create, replica, start, end, answer }, made)
    }

    /// Replaces a key by one that is called `number` here. The first call is what happened to the old key.
    pub(super) async fn rotate(&self, key: &Made, number: u32, replica: usize) -> (Op, Option<(Op, Made)>) {
        let request = v1::RotateKeyRequest { id: key.id.clone(), ..Default::default() };
        let mut stub = self.stub(replica);
        let start = self.shared.now();
        let answered = bounded(stub.rotate_key(self.request(request))).await;
        let end = self.shared.now();
        let op = |made: &Made, kind, answer| Op {
            key: Some(made.number),
            owner: key.owner,
            kind,
            replica,
            start,
            end,
            answer,
        };
        match answered {
            Ok(v1::RotateKeyResponse { key: Some(new), api_key: text, old_key, .. }) => {
                let made = Made { number, owner: key.owner, id: new.id.clone(), text };
                let new = op(&made, Kind::Rotated, of_status(&new));
                (op(key, Kind::Rotate, of_key(old_key.as_ref())), Some((new, made)))
            }
            Ok(_) => (op(key, Kind::Rotate, Answer::Wrong("no key".to_owned())), None),
            Err(status) => (op(key, Kind::Rotate, of_error(&status)), None),
        }
    }

    /// Ends all keys of an owner, by a call with this deadline.
    pub(super) async fn revoke_keys(&self, owner: u32, deadline: Duration, replica: usize) -> Op {
        let request = v1::RevokeKeysRequest { realm: REALM.to_owned(), owner: Some(of(owner)), ..Default::default() };
        let mut request = self.request(request);
        request.set_timeout(deadline);
        let mut stub = self.stub(replica);
        let start = self.shared.now();
        let answered = bounded(stub.revoke_keys(request)).await;
        let end = self.shared.now();
        let answer = match answered {
            Ok(v1::RevokeKeysResponse { revoked, already_ended, .. }) => Answer::Swept(revoked, already_ended),
            Err(status) => of_error(&status),
        };
        Op { key: None, owner, kind: Kind::RevokeKeys, replica, start, end, answer }
    }

    /// Makes a call about a key that there is.
    pub(super) async fn ask(&self, kind: Kind, key: &Made, replica: usize) -> Op {
        let mut stub = self.stub(replica);
        let id = key.id.clone();
        let start = self.shared.now();
        let answered = match kind {
            Kind::Validate | Kind::FinalValidate => {
                let (api_key, source_address) = (key.text.clone(), HERE.to_owned());
                // Every other one names the realm: such a check has a shorter way through what is in memory.
                let realm = if start.subsec_nanos().is_multiple_of(2) { REALM } else { "" }.to_owned();
                let request = v1::ValidateKeyRequest { api_key, source_address, realm, ..Default::default() };
                bounded(stub.validate_key(self.request(request))).await.map(|answer| of_outcome(&answer))
            }
            Kind::FinalGet => {
                let request = self.request(v1::GetKeyRequest { id });
                bounded(stub.get_key(request)).await.map(|answer| of_key(answer.key.as_ref()))
            }
            Kind::Suspend => {
                let request = self.request(v1::SuspendKeyRequest { id, ..Default::default() });
                bounded(stub.suspend_key(request)).await.map(|answer| of_key(answer.key.as_ref()))
            }
            Kind::Resume => {
                let request = self.request(v1::ResumeKeyRequest { id, ..Default::default() });
                bounded(stub.resume_key(request)).await.map(|answer| of_key(answer.key.as_ref()))
            }
            Kind::Revoke => {
                let request = self.request(v1::RevokeKeyRequest { id, ..Default::default() });
                bounded(stub.revoke_key(request)).await.map(|answer| of_key(answer.key.as_ref()))
            }
            Kind::Narrow | Kind::Widen => {
                let allowed_cidrs = if kind == Kind::Narrow { vec![ELSEWHERE.to_owned()] } else { Vec::new() };
                let mask = prost_types::FieldMask { paths: vec!["allowed_cidrs".to_owned()] };
                let key = v1::Key { id, allowed_cidrs, ..Default::default() };
                let request = self.request(v1::UpdateKeyRequest { key: Some(key), update_mask: Some(mask) });
                bounded(stub.update_key(request)).await.map(|answer| of_key(answer.key.as_ref()))
            }
            Kind::Create | Kind::Rotated | Kind::Rotate | Kind::RevokeKeys => {
                panic!("{kind:?} is not about a key that there is")
            }
        };
        let end = self.shared.now();
        let answer = answered.unwrap_or_else(|status| of_error(&status));
        Op { key: Some(key.number), owner: key.owner, kind, replica, start, end, answer }
    }

    /// Where the replica is now.
    fn stub(&self, replica: usize) -> KeyServiceClient<Channel> {
        let address = self.shared.address(replica);
        let mut stub = self.stubs[replica].lock().unwrap();
        match &*stub {
            Some((of, stub)) if *of == address => stub.clone(),
            _ => {
                let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
                let new = KeyServiceClient::new(endpoint.connect_timeout(DEADLINE).connect_lazy());
                *stub = Some((address, new.clone()));
                new
            }
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(DEADLINE);
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.shared.token).parse().unwrap());
        request
    }
}

fn of(owner: u32) -> v1::Owner {
    let kind = v1::OwnerKind::User.into();
    v1::Owner { kind, id: format!("owner-{owner}"), display_name: String::new() }
}

async fn bounded<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(DEADLINE + SLACK, call).await {
        Ok(answered) => answered.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

fn of_key(key: Option<&v1::Key>) -> Answer {
    key.map_or_else(|| Answer::Wrong("no key".to_owned()), of_status)
}

fn of_status(key: &v1::Key) -> Answer {
    match key.status() {
        KeyStatus::Active if !key.allowed_cidrs.is_empty() => Answer::Is(State::Denied, key.version),
        KeyStatus::Active => Answer::Is(State::Active, key.version),
        KeyStatus::Suspended => Answer::Is(State::Suspended, key.version),
        KeyStatus::Revoked => Answer::Is(State::Revoked, key.version),
        other => Answer::Wrong(other.as_str_name().to_owned()),
    }
}

fn of_outcome(answer: &v1::ValidateKeyResponse) -> Answer {
    let state = match answer.outcome() {
        Outcome::Valid => State::Active,
        Outcome::AddressDenied => State::Denied,
        Outcome::Suspended => State::Suspended,
        Outcome::Revoked => State::Revoked,
        Outcome::Unknown => return Answer::Missing,
        other => return Answer::Wrong(other.as_str_name().to_owned()),
    };
    match &answer.key {
        Some(key) if of_status(key) == Answer::Is(state, key.version) => Answer::Is(state, key.version),
        key => Answer::Wrong(format!("{:?} with {key:?}", answer.outcome())),
    }
}

/// What an error says of whether the call took effect: mostly nothing.
fn of_error(status: &Status) -> Answer {
    let reason = status.get_error_details().error_info().map(|info| info.reason.clone());
    match (reason.as_deref(), status.code()) {
        (Some("KEY_NOT_FOUND"), _) => Answer::Missing,
        (Some("KEY_REVOKED"), _) => Answer::Ended,
        // No reason: it is not from keyclasp, but from the channel.
        (None, code) => Answer::Unknown(code),
        (_, code @ (Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted)) => {
            Answer::Unknown(code)
        }
        (Some(reason), code) => Answer::Wrong(format!("{code:?} {reason}: {}", status.message())),
    }
}
