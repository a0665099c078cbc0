//! `keyclasp key revoke-all`.

use std::io::IsTerminal;

use clap::{ArgGroup, Args};

use crate::cli::failure::{Exit, Failure};
use crate::cli::output::Table;
use crate::cli::values::{self, When, wire_time};
use crate::cli::{Context, block_on, input, show};
use crate::rpc::proto::v1;

/// Which keys: all of the realm that match every filter. At least one filter, or --all.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("filter").required(true).multiple(true))]
pub(in crate::cli) struct RevokeAll {
    /// Only the keys of this owner: user:ID, service-account:ID, client:ID or external:ID.
    #[arg(long, value_parser = values::owner, value_name = "KIND:ID", group = "filter")]
    owner: Option<v1::Owner>,
    /// Only keys that were made before this time; a duration means so long ago.
    #[arg(long, value_parser = values::when, value_name = "TIME", group = "filter")]
    created_before: Option<When>,
    /// Only keys that hold, or imply, this scope.
    #[arg(long, value_name = "SCOPE", default_value = "", hide_default_value = true, group = "filter")]
    scope: String,
    /// Every key of the realm.
    #[arg(long, group = "filter", conflicts_with_all = ["owner", "created_before", "scope"])]
    all: bool,
    /// Why; kept with each key.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Counts what would be revoked; changes nothing.
    #[arg(long)]
    dry_run: bool,
    /// Does not ask.
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
}

impl RevokeAll {
    pub(super) fn run(self, context: &mut Context) -> Result<Exit, Failure> {
        let realm = context.realm()?;
        let now = context.now();
        let request = v1::RevokeKeysRequest {
            realm: realm.clone(),
            owner: self.owner,
            created_before: self.created_before.map(|when| wire_time(when.ago(now))),
            scope: self.scope,
            all: self.all,
            reason: self.reason,
            dry_run: self.dry_run,
        };
        if !self.dry_run && !self.yes && !std::io::stdin().is_terminal() {
            let remedy = "this ends keys for ever: give --yes to go on without being asked, or --dry-run to count them";
            return Err(Failure::usage(remedy));
        }
        block_on(async {
            let client = context.connect().await?;
            let revoke = async |request| client.call(client.keys().revoke_keys(client.request(request))).await;
            if !self.dry_run && !self.yes {
                let counted = revoke(v1::RevokeKeysRequest { dry_run: true, ..request.clone() }).await?;
                context.out.prompt(&question(&counted, &realm));
                confirm(&input::from_terminal()?, &realm)?;
            }
            let again = "Keys may have been revoked; the same command goes on where this one stopped.";
            let answer = revoke(request).await.map_err(|failure| match failure.exit() {
                Exit::Unavailable if !self.dry_run => failure.and(again),
                _ => failure,
            })?;
            context.out.answer("RevokeKeysResponse", &answer, || counts(&answer, self.dry_run))?;
            Ok(Exit::Done)
        })
    }
}

fn question(counted: &v1::RevokeKeysResponse, realm: &str) -> String {
    format!("This ends {} keys of the realm {realm} for ever. Type the realm's name to go on: ", counted.revoked)
}

fn confirm(typed: &str, realm: &str) -> Result<(), Failure> {
    if typed == realm { Ok(()) } else { Err(Failure::refused("that is not the realm's name; nothing was revoked")) }
}

fn counts(answer: &v1::RevokeKeysResponse, dry_run: bool) -> Table {
    let revoked = if dry_run { "would be revoked" } else { "revoked" };
    let mut table = Table::of_fields(vec![
        (revoked, answer.revoked.to_string()),
        ("ended before", answer.already_ended.to_string()),
    ]);
    for fence in &answer.fences {
        let fence = show::fence(Some(fence));
        if !fence.is_empty() {
            table.below(fence);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_realms_name_confirms() {
        assert!(confirm("acme", "acme").is_ok());
        for typed in ["", "y", "yes", "ACME", "acme "] {
            assert_eq!(confirm(typed, "acme").unwrap_err().exit(), Exit::Refused, "{typed}");
        }
        let counted = v1::RevokeKeysResponse { revoked: 12, ..v1::RevokeKeysResponse::default() };
        assert!(question(&counted, "acme").contains("12 keys of the realm acme"));
    }
}
