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

/// A request_id that nobody else has.
pub(super) fn request_id(entropy: &dyn Entropy) -> Result<String, Failure> {
    let bytes = random::bytes::<16>(entropy).map_err(|error| Failure::refused(error.to_string()))?;
    Ok(HEXLOWER.encode(&bytes))
}

/// Takes the step, and what follows from it.
pub(super) async fn issue(
    client: &Client,
    mut step: Step,
    entropy: &dyn Entropy,
    out: &mut Out,
) -> Result<Issued, Failure> {
    // Whether an answer got lost in this run: only then is a text that is missing one that nobody has.
    let mut lost = false;
    let mut pause = PAUSE;
    for attempt in 1.. {
        let status = match step.take(client).await {
            Ok(issued) if issued.api_key().is_empty() && lost && attempt < TRIES => {
                let id = issued.key().id;
                out.note(&format!(
                    "The key {id} was made, but the answer with its text was lost. Replacing it by a new one."
                ));
                step = Step::Rotate(v1::RotateKeyRequest {
                    id,
                    request_id: request_id(entropy)?,
                    ..v1::RotateKeyRequest::default()
                });
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
    Err(Failure::unavailable("the service is out of reach"))
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
