//! `keyclasp key rotate`.

use std::time::Duration;

use clap::Args;

use crate::cli::failure::{Exit, Failure};
use crate::cli::issue::{Issued, RequestId, Step, issue};
use crate::cli::values::{self, key_id, wire_duration};
use crate::cli::{Context, block_on, show};
use crate::rpc::proto::v1;

/// Which key, and how.
#[derive(Debug, Args)]
pub(in crate::cli) struct Rotate {
    /// The key's id.
    id: String,
    /// How long the old key goes on, up to 30d. Without it, it is revoked at once.
    #[arg(long, value_parser = values::duration_or_zero, value_name = "DURATION")]
    grace: Option<Duration>,
    /// How long the new key lives. Without it: as long as the old one was meant to.
    #[arg(long, value_parser = values::duration, value_name = "DURATION")]
    ttl: Option<Duration>,
    /// Makes the command safe to repeat for 24 hours.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

impl Rotate {
    pub(super) fn run(self, context: &mut Context) -> Result<Exit, Failure> {
        let request_id = RequestId::or_new(self.request_id, &context.entropy)?;
        let request = v1::RotateKeyRequest {
            id: key_id(&self.id)?,
            grace: self.grace.map(wire_duration),
            ttl: self.ttl.map(wire_duration),
            request_id: request_id.id.clone(),
        };
        block_on(async {
            let client = context.connect().await?;
            let issued = issue(&client, Step::Rotate(request), &request_id, &context.entropy, &mut context.out).await?;
            show::issued(&issued, &mut context.out)?;
            if let Issued::Rotated(response) = &issued {
                let fence = show::fence(response.fence.as_ref());
                if !fence.is_empty() {
                    context.out.note(&fence);
                }
            }
            Ok(Exit::Done)
        })
    }
}
