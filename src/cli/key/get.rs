//! `keyclasp key get`.

use clap::Args;

use crate::cli::failure::{Exit, Failure};
use crate::cli::values::key_id;
use crate::cli::{Context, block_on};
use crate::rpc::proto::v1;

/// Which key.
#[derive(Debug, Args)]
pub(in crate::cli) struct Get {
    /// The key's id.
    id: String,
}

impl Get {
    pub(super) fn run(self, context: &mut Context) -> Result<Exit, Failure> {
        let request = v1::GetKeyRequest { id: key_id(&self.id)? };
        block_on(async {
            let client = context.connect().await?;
            let answer = client.call(client.keys().get_key(client.request(request))).await?;
            super::changed(&mut context.out, "GetKeyResponse", &answer, answer.key.as_ref(), None)
        })
    }
}
