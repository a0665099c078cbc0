//! `[realms.NAME]`: what a realm allows its keys to be. `[realms.default]` is for all others, and
//! each realm takes from it what it does not set itself.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::problem::Problems;
use super::setting::{Fault, Setting, read, section};
use super::source::{Raw, Table};
use super::types::{MaybeDuration, Number, parsed, text};
use crate::key::{Implications, Invalid, Policy, Prefix, Realm, Scope};
use crate::service::Policies;

section! {
    /// What a realm allows its keys to be. `[realms.default]` holds for every realm; `[realms.NAME]` changes single
    /// settings for one. Realms need no declaration. A tightened policy binds what is made or changed from then on.
    ["realms.default"] pub(super) struct RealmSection {
        /// What the text of new keys begins with.
        prefix: Prefix = "kc",
        /// Which actions of a scope imply which others, of the same resource.
        implications: Implied = { admin = ["write"], write = ["read"] },
        /// Scopes that keys may hold: each must be one of these or be implied by one. `["*"]`: any.
        grantable: Vec<Scope> = ["*"],
        /// Lifetime of a key that is created without one.
        default_ttl: MaybeDuration = "none",
        /// Longest lifetime from now on that a key may be given.
        max_ttl: MaybeDuration = "none",
        /// Whether a key may be made that does not expire.
        allow_no_expiry: bool = true,
        /// Most keys of one owner that are neither revoked nor expired.
        max_keys_per_owner: Number<1, 1_000_000> = 20_000,
        /// Whether a key must be bound to networks or principals.
        require_binding: bool = false,
    }
    check |realm, reader| {
        if let (MaybeDuration(Some(default)), MaybeDuration(Some(max))) = (realm.default_ttl, realm.max_ttl)
            && default > max
        {
            reader.refuse("default_ttl", "is longer than max_ttl", "shorten it, or raise max_ttl");
        }
    }
}

/// Reads all realms from the table `realms`.
pub(super) fn realms(mut tables: Table, base: &Path, problems: &mut Problems) -> Option<Policies> {
    let default = tables.take_table("default", "realms.default", problems);
    let names: Vec<_> = tables.entries.keys().cloned().collect();
    let policy = |layers: &[&Table], path: &str, problems: &mut Problems| {
        read::<RealmSection>(layers, path, &[], base, problems).map(RealmSection::policy)
    };
    let default_policy = policy(&[&default], "realms.default", problems);
    let mut realms = HashMap::new();
    for name in names {
        let path = format!("realms.{name}");
        let table = tables.take_table(&name, &path, problems);
        let parsed = Realm::parse(&name).map_err(|error| {
            let place = table.place.clone();
            problems.push(super::Problem::new(
                place,
                path.clone(),
                "is not the name of a realm",
                format!("it {error}"),
            ));
        });
        if let (Ok(realm), Some(policy)) = (parsed, policy(&[&table, &default], &path, problems)) {
            realms.insert(realm, policy);
        }
    }
    Some(Policies { default: default_policy?, realms })
}

impl RealmSection {
    fn policy(self) -> Policy {
        let any = self.grantable.iter().any(|scope| scope.as_str() == "*");
        Policy {
            prefix: self.prefix,
            implications: self.implications.0,
            grantable: (!any).then_some(self.grantable),
            default_ttl: self.default_ttl.0,
            max_ttl: self.max_ttl.0,
            allow_no_expiry: self.allow_no_expiry,
            max_keys_per_owner: self.max_keys_per_owner.get(),
            require_binding: self.require_binding,
        }
    }
}

/// Implications as a table of lists.
#[derive(Debug, Clone)]
pub(super) struct Implied(Implications);

impl Setting for Implied {
    fn form() -> String {
        "a table of lists of actions".to_owned()
    }

    fn example() -> String {
        "{ write = [\"read\"] }".to_owned()
    }

    fn parse(value: &Raw, base: &Path) -> Result<Self, Fault> {
        let entries = match value {
            Raw::Table(table) => table.entries.clone(),
            Raw::Env(text) => match super::source::literal(text) {
                Some(Raw::Table(table)) => table.entries,
                _ => return Err(Fault::form::<Self>()),
            },
            _ => return Err(Fault::form::<Self>()),
        };
        let mut direct = BTreeMap::new();
        for (action, implied) in entries {
            let Action(action) = Action::parse(&Raw::String(action), base)?;
            let implied = Vec::<Action>::parse(&implied.value, base)?;
            direct.insert(action, implied.into_iter().map(|Action(action)| action).collect());
        }
        Ok(Self(Implications::new(&direct)))
    }
}

/// The last part of a scope.
struct Action(String);

parsed!(Action, "an action", "\"read\"", |text| match Scope::parse(text) {
    Ok(_) if !text.contains(':') && text != "*" => Ok(Self(text.to_owned())),
    Ok(_) => Err(Invalid::new("name the action alone, such as read; * implies every action already")),
    Err(_) => Err(Invalid::new("use visible ASCII without quotes and backslashes")),
});
