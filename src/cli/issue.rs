//! Making a key whose text arrives, even if answers get lost: a call that was cut off is repeated
//! under its own request_id; if the answer shows that the key was made but not its text, the key is
//! rotated at once, for nobody has the text that it replaces.

use std::time::Duration;

use data_encoding::HEXLOWER;
use tonic::{Code, Status};

use super::client::Client;
use super::failure::{Details, Failure};
use super::output::Out;
use crate::random::{self, Entropy};
use crate::rpc::proto::v1;

/// How often a call is tried.
const TRIES: u32 = 5;
/// The first pause between two tries; each is twice as long as the one before.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest pause, whatever the service advises.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// What makes the key.
pub(super) enum Step {
    /// CreateKey.
    Create(v1::CreateKeyRequest),
    /// RotateKey.
    Rotate(v1::RotateKeyRequest),
}

/// What was made.
pub(super) enum Issued {
    /// By CreateKey.
    Created(Box<v1::CreateKeyResponse>),
    /// By RotateKey.
    Rotated(Box<v1::RotateKeyResponse>),
}

impl Issued {
    /// The new key.
    pub(super) fn key(&self) -> v1::Key {
        match self {
            Self::Created(response) => response.key.clone().unwrap_or_default(),
            Self::Rotated(response) => response.key.clone().unwrap_or_default(),
        }
    }

    /// Its text. Empty: it was shown to whoever made the call first.
    pub(super) fn api_key(&self) -> &str {
        match self {
            Self::Created(response) => &response.api_key,
            Self::Rotated(response) => &response.api_key,
        }
    }
}

/// What makes a call safe to repeat.
pub(super) struct RequestId {
    /// As the API takes it.
    pub(super) id: String,
    /// Whether it was made here: then nobody has seen what it was answered with.
    own: bool,
}

impl RequestId {
    /// The one that was given, or one that nobody else has.
    pub(super) fn or_new(given: Option<String>, entropy: &dyn Entropy) -> Result<Self, Failure> {
        match given {
            Some(id) => Ok(Self { id, own: false }),
            None => Ok(Self { id: request_id(entropy)?, own: true }),
        }
    }
}

/// A request_id that nobody else has.
pub(super) fn request_id(entropy: &dyn Entropy) -> Result<String, Failure> {
    let bytes = random::bytes::<16>(entropy).map_err(|error| Failure::refused(error.to_string()))?;
    Ok(HEXLOWER.encode(&bytes))
}

/// Takes the step, and what follows from it. `request_id` is the step's.
pub(super) async fn issue(
    client: &Client,
    mut step: Step,
    request_id: &RequestId,
    entropy: &dyn Entropy,
    out: &mut Out,
) -> Result<Issued, Failure> {
    // Whether an answer may have got lost in this run: only then, and only if nobody else could
    // have had it, is a text that is missing one that nobody has.
    let mut lost = false;
    let mut pause = PAUSE;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let status = match step.take(client).await {
            Ok(issued) if issued.api_key().is_empty() && lost && request_id.own => {
                let id = issued.key().id;
                if attempt >= TRIES {
                    let remedy = format!("`keyclasp key rotate {id}` replaces it by one whose text arrives");
                    return Err(Failure::unavailable(format!(
                        "the key {id} was made, but its text was lost: {remedy}"
                    )));
                }
                out.note(&format!(
                    "The key {id} was made, but the answer with its text was lost. Replacing it by a new one."
                ));
                let request_id = self::request_id(entropy)?;
                step = Step::Rotate(v1::RotateKeyRequest { id, request_id, ..v1::RotateKeyRequest::default() });
                continue;
            }
            Ok(issued) => return Ok(issued),
            Err(status) => status,
        };
        let repeat = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded);
        if !repeat || attempt >= TRIES {
            let failure = client.failure(&status);
            return Err(if repeat { failure.and(&step.advice()) } else { failure });
        }
        lost = true;
        out.note(&format!("{}: trying again ({attempt} of {TRIES})", first_line(&status)));
        let advised = Details::of(&status).retry_after.unwrap_or_default();
        tokio::time::sleep(pause.max(advised).min(LONGEST_PAUSE)).await;
        pause *= 2;
    }
}

fn first_line(status: &Status) -> &str {
    status.message().lines().next().filter(|line| !line.is_empty()).unwrap_or("no answer")
}

impl Step {
    async fn take(&self, client: &Client) -> Result<Issued, Status> {
        match self {
            Self::Create(request) => {
                let call = client.request(request.clone());
                client.answer(client.keys().create_key(call)).await.map(|response| Issued::Created(Box::new(response)))
            }
            Self::Rotate(request) => {
                let call = client.request(request.clone());
                client.answer(client.keys().rotate_key(call)).await.map(|response| Issued::Rotated(Box::new(response)))
            }
        }
    }

    /// What to do when all tries were in vain.
    fn advice(&self) -> String {
        let (Self::Create(v1::CreateKeyRequest { request_id, .. })
        | Self::Rotate(v1::RotateKeyRequest { request_id, .. })) = self;
        format!(
            "Whether it was done is not known. The same command with --request-id {request_id} finds out within 24 \
             hours and makes no second key."
        )
    }
}
