//! `keyclasp key suspend`.

use clap::Args;

use crate::cli::failure::{Exit, Failure};
use crate::cli::values::{self, When, key_id, wire_time};
use crate::cli::{Context, block_on};
use crate::rpc::proto::v1;

/// Which key, and until when.
#[derive(Debug, Args)]
pub(in crate::cli) struct Suspend {
    /// The key's id.
    id: String,
    /// Why.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Lifts itself at this time; a duration means from now.
    #[arg(long, value_parser = values::when, value_name = "TIME")]
    until: Option<When>,
}

impl Suspend {
    pub(super) fn run(self, context: &mut Context) -> Result<Exit, Failure> {
        let now = context.now();
        let until = self.until.map(|until| wire_time(until.ahead(now)));
        let request = v1::SuspendKeyRequest { id: key_id(&self.id)?, reason: self.reason, until };
        block_on(async {
            let client = context.connect().await?;
            let answer = client.call(client.keys().suspend_key(client.request(request))).await?;
            let fence = answer.fence.as_ref();
            super::changed(&mut context.out, "SuspendKeyResponse", &answer, answer.key.as_ref(), fence)
        })
    }
}
