//! `keyclasp key revoke`.

use clap::Args;

use crate::cli::failure::{Exit, Failure};
use crate::cli::issue::request_id;
use crate::cli::values::key_id;
use crate::cli::{Context, block_on};
use crate::rpc::proto::v1;

/// Which key.
#[derive(Debug, Args)]
pub(in crate::cli) struct Revoke {
    /// The key's id.
    id: String,
    /// Why; kept with the key.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Makes the command safe to repeat for 24 hours. It is so anyway, but for a second audit event.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

impl Revoke {
    pub(super) fn run(self, context: &mut Context) -> Result<Exit, Failure> {
        let request = v1::RevokeKeyRequest {
            id: key_id(&self.id)?,
            reason: self.reason,
            request_id: match self.request_id {
                Some(id) => id,
                None => request_id(&context.entropy)?,
            },
        };
        block_on(async {
            let client = context.connect().await?;
            let answer = client.call(client.keys().revoke_key(client.request(request))).await?;
            let fence = answer.fence.as_ref();
            super::changed(&mut context.out, "RevokeKeyResponse", &answer, answer.key.as_ref(), fence)
        })
    }
}
