//! `keyclasp key create`.

use std::time::Duration;

use clap::Args;

use crate::cli::failure::{Exit, Failure};
use crate::cli::issue::{RequestId, Step, issue};
use crate::cli::values::{self, When, wire_duration, wire_time};
use crate::cli::{Context, block_on, show};
use crate::rpc::proto::v1;

/// What the key shall be.
#[derive(Debug, Args)]
pub(in crate::cli) struct Create {
    /// Whom it acts for: user:ID (Keycloak's user id), service-account:ID, client:ID or external:ID.
    #[arg(long, value_parser = values::owner, value_name = "KIND:ID")]
    owner: v1::Owner,
    /// What people call the owner.
    #[arg(long, value_name = "TEXT", default_value = "")]
    owner_name: String,
    /// What the key is called.
    #[arg(long, value_name = "TEXT", default_value = "")]
    name: String,
    /// What it is for.
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,
    /// What it may do; repeat for more.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// How long it lives, such as 14d. Without --ttl and --expires-at: as the realm's policy says.
    #[arg(long, value_parser = values::duration, value_name = "DURATION", conflicts_with = "expires_at")]
    ttl: Option<Duration>,
    /// When it ends, such as 2026-12-31T23:59:59Z.
    #[arg(long, value_parser = values::when, value_name = "TIME")]
    expires_at: Option<When>,
    /// When it begins; a duration means from now.
    #[arg(long, value_parser = values::when, value_name = "TIME")]
    not_before: Option<When>,
    /// A network from which it may be used, such as 10.0.0.0/8; repeat for more.
    #[arg(long = "cidr", value_name = "NETWORK")]
    cidrs: Vec<String>,
    /// A principal (such as a SPIFFE id) that may present it; repeat for more.
    #[arg(long = "principal", value_name = "ID")]
    principals: Vec<String>,
    /// A label; repeat for more.
    #[arg(long = "label", value_parser = values::label, value_name = "NAME=VALUE")]
    labels: Vec<(String, String)>,
    /// Makes the command safe to repeat for 24 hours.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

impl Create {
    pub(super) fn run(self, context: &mut Context) -> Result<Exit, Failure> {
        let now = context.now();
        let ahead = |when: When| wire_time(when.ahead(now));
        let lifetime = match (self.ttl, self.expires_at) {
            (Some(ttl), _) => Some(v1::create_key_request::Lifetime::Ttl(wire_duration(ttl))),
            (None, Some(end)) => Some(v1::create_key_request::Lifetime::ExpiresAt(ahead(end))),
            (None, None) => None,
        };
        let request_id = RequestId::or_new(self.request_id, &context.entropy)?;
        let request = v1::CreateKeyRequest {
            realm: context.realm()?,
            owner: Some(v1::Owner { display_name: self.owner_name, ..self.owner }),
            name: self.name,
            description: self.description,
            scopes: self.scopes,
            lifetime,
            not_before: self.not_before.map(ahead),
            allowed_cidrs: self.cidrs,
            allowed_principals: self.principals,
            metadata: self.labels.into_iter().collect(),
            request_id: request_id.id.clone(),
        };
        block_on(async {
            let client = context.connect().await?;
            let issued = issue(&client, Step::Create(request), &request_id, &context.entropy, &mut context.out).await?;
            show::issued(&issued, &mut context.out)?;
            Ok(Exit::Done)
        })
    }
}
