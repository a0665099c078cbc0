//! `keyclasp key resume`.

use clap::Args;

use crate::cli::failure::{Exit, Failure};
use crate::cli::values::key_id;
use crate::cli::{Context, block_on};
use crate::rpc::proto::v1;

/// Which key.
#[derive(Debug, Args)]
pub(in crate::cli) struct Resume {
    /// The key's id.
    id: String,
    /// Why.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

impl Resume {
    pub(super) fn run(self, context: &mut Context) -> Result<Exit, Failure> {
        let request = v1::ResumeKeyRequest { id: key_id(&self.id)?, reason: self.reason };
        block_on(async {
            let client = context.connect().await?;
            let answer = client.call(client.keys().resume_key(client.request(request))).await?;
            let exit = super::changed(&mut context.out, "ResumeKeyResponse", &answer, answer.key.as_ref(), None)?;
            if answer.key.as_ref().is_some_and(|key| key.status() == v1::KeyStatus::Suspended) {
                context.out.note("The key is still suspended: its owner is not active.");
            }
            Ok(exit)
        })
    }
}
