//! `keyclasp key update`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::cli::failure::{Exit, Failure};
use crate::cli::values::{self, When, key_id, wire_time};
use crate::cli::{Context, block_on};
use crate::rpc::proto::v1;

/// What to change. Lists (scopes, networks, principals, labels) are replaced as a whole.
#[derive(Debug, Args)]
pub(in crate::cli) struct Update {
    /// The key's id.
    id: String,
    /// What it is called.
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// What it is for.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// What people call the owner.
    #[arg(long, value_name = "TEXT")]
    owner_name: Option<String>,
    /// All that it may do; repeat for more.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// How long it lives from now on.
    #[arg(long, value_parser = values::duration, value_name = "DURATION", conflicts_with = "expires_at")]
    ttl: Option<Duration>,
    /// When it ends.
    #[arg(long, value_parser = values::when, value_name = "TIME")]
    expires_at: Option<When>,
    /// When it begins; a duration means from now.
    #[arg(long, value_parser = values::when, value_name = "TIME")]
    not_before: Option<When>,
    /// All networks from which it may be used; repeat for more.
    #[arg(long = "cidr", value_name = "NETWORK")]
    cidrs: Vec<String>,
    /// All principals that may present it; repeat for more.
    #[arg(long = "principal", value_name = "ID")]
    principals: Vec<String>,
    /// All its labels; repeat for more.
    #[arg(long = "label", value_parser = values::label, value_name = "NAME=VALUE")]
    labels: Vec<(String, String)>,
    /// Makes a field empty; repeat for more.
    #[arg(long, value_enum, value_name = "FIELD")]
    clear: Vec<Field>,
    /// Only if this is the key's version.
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    if_version: u64,
}

/// A field that can be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Field {
    Name,
    Description,
    OwnerName,
    Scopes,
    ExpiresAt,
    NotBefore,
    Cidrs,
    Principals,
    Labels,
}

impl Field {
    /// As the API calls it.
    const fn path(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Description => "description",
            Self::OwnerName => "owner.display_name",
            Self::Scopes => "scopes",
            Self::ExpiresAt => "expires_at",
            Self::NotBefore => "not_before",
            Self::Cidrs => "allowed_cidrs",
            Self::Principals => "allowed_principals",
            Self::Labels => "metadata",
        }
    }
}

impl Update {
    pub(super) fn run(self, context: &mut Context) -> Result<Exit, Failure> {
        let request = self.request(context.now())?;
        block_on(async {
            let client = context.connect().await?;
            let answer = client.call(client.keys().update_key(client.request(request))).await?;
            let fence = answer.fence.as_ref();
            super::changed(&mut context.out, "UpdateKeyResponse", &answer, answer.key.as_ref(), fence)
        })
    }

    fn request(self, now: crate::clock::Timestamp) -> Result<v1::UpdateKeyRequest, Failure> {
        let ends = self.ttl.map(When::FromNow).or(self.expires_at);
        let set = [
            (Field::Name, self.name.is_some()),
            (Field::Description, self.description.is_some()),
            (Field::OwnerName, self.owner_name.is_some()),
            (Field::Scopes, !self.scopes.is_empty()),
            (Field::ExpiresAt, ends.is_some()),
            (Field::NotBefore, self.not_before.is_some()),
            (Field::Cidrs, !self.cidrs.is_empty()),
            (Field::Principals, !self.principals.is_empty()),
            (Field::Labels, !self.labels.is_empty()),
        ];
        let mut paths = Vec::new();
        for (field, is_set) in set {
            if is_set && self.clear.contains(&field) {
                return Err(Failure::usage(format!("{} is both set and cleared: choose one", field.path())));
            }
            if is_set || self.clear.contains(&field) {
                paths.push(field.path().to_owned());
            }
        }
        if paths.is_empty() {
            return Err(Failure::usage("nothing to change: name a field, such as --name, or --clear one"));
        }
        let key = v1::Key {
            id: key_id(&self.id)?,
            name: self.name.unwrap_or_default(),
            description: self.description.unwrap_or_default(),
            owner: self.owner_name.map(|display_name| v1::Owner { display_name, ..v1::Owner::default() }),
            scopes: self.scopes,
            expires_at: ends.map(|end| wire_time(end.ahead(now))),
            not_before: self.not_before.map(|begin| wire_time(begin.ahead(now))),
            allowed_cidrs: self.cidrs,
            allowed_principals: self.principals,
            metadata: self.labels.into_iter().collect(),
            version: self.if_version,
            ..v1::Key::default()
        };
        Ok(v1::UpdateKeyRequest { key: Some(key), update_mask: Some(prost_types::FieldMask { paths }) })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::clock::Timestamp;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        update: Update,
    }

    fn request(arguments: &[&str]) -> Result<v1::UpdateKeyRequest, Failure> {
        let all = ["update", "0000000000000000000001"].iter().chain(arguments);
        Program::try_parse_from(all).unwrap().update.request(Timestamp::from_millis(1_000))
    }

    #[test]
    fn the_mask_names_what_is_set_and_what_is_cleared_and_nothing_else() {
        let request = request(&["--name", "", "--ttl", "1s", "--clear", "cidrs", "--clear", "scopes"]).unwrap();
        assert_eq!(request.update_mask.unwrap().paths, ["name", "scopes", "expires_at", "allowed_cidrs"]);
        assert_eq!(request.key.unwrap().expires_at.unwrap().seconds, 2);
    }

    #[test]
    fn a_field_that_is_set_and_cleared_or_no_field_is_wrong_usage() {
        assert_eq!(request(&["--scope", "a", "--clear", "scopes"]).unwrap_err().exit(), Exit::Usage);
        assert_eq!(request(&[]).unwrap_err().exit(), Exit::Usage);
    }
}
