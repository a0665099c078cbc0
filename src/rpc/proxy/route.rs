//! What a route requires: Envoy's `context_extensions`, the fixed query of forward-auth.

use crate::key::{Realm, Scope};

/// Most scopes that a route may require: as many as a key may hold.
const MOST_SCOPES: usize = 64;

/// What a route requires.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::rpc) struct Route {
    /// The realm of its keys. None: as the host map or the configuration says.
    pub(in crate::rpc) realm: Option<Realm>,
    /// Scopes that a key must cover, all of them. None: not said.
    pub(in crate::rpc) scopes: Option<Vec<Scope>>,
    /// What the upstream is given beside the identity.
    pub(in crate::rpc) token: Token,
    /// Whether a request without any key passes.
    pub(in crate::rpc) optional: bool,
    /// Whether nobody is refused.
    pub(in crate::rpc) dry_run: bool,
}

/// What the upstream is given beside the identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::rpc) enum Token {
    /// Nothing.
    #[default]
    None,
    /// An access token of the key's owner.
    Inject,
}

/// A route that cannot be understood: it lets nobody through.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(in crate::rpc) struct RouteFault(String);

impl Route {
    /// Reads what a route says, by name (without `keyclasp.`).
    ///
    /// # Errors
    /// When a name is not known or said twice, or a value is not one of its kind.
    pub(in crate::rpc) fn parse<'a>(said: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, RouteFault> {
        let mut route = Self::default();
        let mut seen = [false; NAMES.len()];
        for (name, value) in said {
            let Some(at) = NAMES.iter().position(|known| *known == name) else {
                return Err(RouteFault(format!("`{name:.64}` is not one of {}", NAMES.join(", "))));
            };
            if seen.get(at).copied().unwrap_or_default() {
                return Err(RouteFault(format!("`{name}` is said twice")));
            }
            if let Some(seen) = seen.get_mut(at) {
                *seen = true;
            }
            route.take(name, value).map_err(|problem| RouteFault(format!("`{name}` {problem}")))?;
        }
        Ok(route)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "realm" => self.realm = Some(Realm::parse(value).map_err(|error| error.to_string())?),
            "scopes" => {
                let scopes = value.split(' ').filter(|scope| !scope.is_empty()).map(Scope::parse);
                let scopes = scopes.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
                // What a template left empty must not open a route.
                if scopes.is_empty() {
                    return Err("names no scope; leave it out where none is required".to_owned());
                }
                if scopes.len() > MOST_SCOPES {
                    return Err(format!("names more than {MOST_SCOPES} scopes, which no key holds"));
                }
                self.scopes = Some(scopes);
            }
            "token" => {
                self.token = match value {
                    "none" => Token::None,
                    "inject" => Token::Inject,
                    _ => return Err("must be none or inject".to_owned()),
                }
            }
            "optional" => self.optional = flag(value)?,
            _ => self.dry_run = flag(value)?,
        }
        Ok(())
    }
}

/// What a route may say.
const NAMES: [&str; 5] = ["realm", "scopes", "token", "optional", "dry_run"];

fn flag(value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| "must be true or false".to_owned())
}

impl RouteFault {
    pub(in crate::rpc) fn new(problem: impl Into<String>) -> Self {
        Self(problem.into())
    }

    pub(super) fn no_realm() -> Self {
        Self("neither the route, nor the host map, nor the configuration names a realm".to_owned())
    }

    pub(super) fn no_tokens() -> Self {
        Self("`token` is inject, and this instance has no Keycloak to get tokens from".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(said: &[(&str, &str)]) -> Result<Route, String> {
        Route::parse(said.iter().copied()).map_err(|fault| fault.to_string())
    }

    #[test]
    fn a_route_says_what_it_requires() {
        assert_eq!(route(&[]).unwrap(), Route::default());
        let all = [
            ("realm", "acme"),
            ("scopes", "orders:read  orders:write"),
            ("token", "none"),
            ("optional", "true"),
            ("dry_run", "false"),
        ];
        let said = route(&all).unwrap();
        assert_eq!(said.realm.unwrap().as_str(), "acme");
        let scopes: Vec<_> = said.scopes.unwrap().into_iter().map(Scope::into_string).collect();
        assert_eq!(scopes, ["orders:read", "orders:write"]);
        assert!(said.optional && !said.dry_run && said.token == Token::None);
        assert_eq!(route(&[("token", "inject")]).unwrap().token, Token::Inject);
    }

    #[test]
    fn what_is_not_understood_is_a_fault_that_names_it() {
        let many = vec!["a"; MOST_SCOPES + 1].join(" ");
        for (said, named) in [
            (&[("scope", "a")][..], "scope"),
            (&[("Realm", "a")], "Realm"),
            (&[("realm", "")], "realm"),
            (&[("realm", "a\nb")], "realm"),
            (&[("realm", "a"), ("realm", "b")], "realm"),
            (&[("scopes", "")], "scopes"),
            (&[("scopes", " ")], "scopes"),
            (&[("scopes", "a\"b")], "scopes"),
            (&[("scopes", &many)], "scopes"),
            (&[("token", "")], "token"),
            (&[("token", "Inject")], "token"),
            (&[("optional", "yes")], "optional"),
            (&[("optional", "")], "optional"),
            (&[("dry_run", "1")], "dry_run"),
        ] {
            let fault = route(said).unwrap_err();
            assert!(fault.contains(&format!("`{named}`")), "{fault}");
        }
    }
}
