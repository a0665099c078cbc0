//! Scopes: what a key may do, and which scope implies which.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::values::{Invalid, each};

/// One scope: a scope token (RFC 6749, section 3.3) of 1 to 128 characters, usually
/// `resource:action`. The action is what follows the last colon; a scope without a colon has none.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(Box<str>);

impl Scope {
    /// Parses `text`.
    ///
    /// # Errors
    /// When the text is empty, too long, or holds a character that a scope token may not have.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if !(1..=128).contains(&text.len()) {
            return Err(Invalid::new("holds a scope that is not 1 to 128 characters long"));
        }
        // %x21 / %x23-5B / %x5D-7E
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\') {
            return Err(Invalid::new(
                "holds a scope with a character that is not allowed; use visible ASCII without quotes and backslashes",
            ));
        }
        Ok(Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, without a copy.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0.into_string()
    }
}

/// Resource and action of a scope.
fn parts(scope: &str) -> (&str, Option<&str>) {
    // Scopes are short: looking at each byte is faster than a search made for long texts.
    let colon = scope.bytes().rposition(|byte| byte == b':');
    match colon.and_then(|at| Some((scope.get(..at)?, scope.get(at + 1..)?))) {
        Some((resource, action)) => (resource, Some(action)),
        None => (scope, None),
    }
}

impl AsRef<str> for Scope {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A key's scopes: up to 64, sorted, each once. May be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scopes(Vec<Scope>);

impl Scopes {
    /// Most scopes of one key.
    pub const MAX: usize = 64;

    /// Parses scopes; repeated ones count once.
    ///
    /// # Errors
    /// When there are too many, or one is no scope.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, Invalid> {
        if texts.len() > Self::MAX {
            return Err(Invalid::new(format!("holds {} scopes; at most {} are allowed", texts.len(), Self::MAX)));
        }
        let mut scopes = each(texts, Scope::parse)?;
        scopes.sort();
        scopes.dedup();
        Ok(Self(scopes))
    }

    /// The scopes, sorted.
    #[must_use]
    pub fn as_slice(&self) -> &[Scope] {
        &self.0
    }

    /// The scopes, sorted.
    #[must_use]
    pub fn into_vec(self) -> Vec<Scope> {
        self.0
    }
}

/// Which action implies which others, for one realm: `write` implies `read`, and so on. Closed
/// under transitivity when it is made, so that a check is one look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Implications(BTreeMap<String, BTreeSet<String>>);

impl Implications {
    /// From pairs of an action and the actions that it implies directly.
    #[must_use]
    pub fn new(direct: &BTreeMap<String, Vec<String>>) -> Self {
        let mut closed = BTreeMap::new();
        for action in direct.keys() {
            let mut reached = BTreeSet::new();
            let mut open = vec![action];
            while let Some(next) = open.pop() {
                for implied in direct.get(next).into_iter().flatten() {
                    if reached.insert(implied.clone()) {
                        open.push(implied);
                    }
                }
            }
            closed.insert(action.clone(), reached);
        }
        Self(closed)
    }

    /// Whether holding `held` is enough where `required` is asked for: it is the same, or `*`, or
    /// has the same resource and `*` or an implying action.
    #[must_use]
    pub fn covers(&self, held: impl AsRef<str>, required: &Scope) -> bool {
        let held = held.as_ref();
        if held == required.as_str() || held == "*" {
            return true;
        }
        match (parts(held), parts(required.as_str())) {
            ((resource, Some(action)), (wanted, Some(wanted_action))) if resource == wanted => {
                action == "*" || self.0.get(action).is_some_and(|implied| implied.contains(wanted_action))
            }
            _ => false,
        }
    }

    /// Whether one of `held` covers `required`.
    #[must_use]
    pub fn any_covers(&self, held: impl IntoIterator<Item = impl AsRef<str>>, required: &Scope) -> bool {
        held.into_iter().any(|held| self.covers(held, required))
    }

    /// `held`, and every scope that one of them implies, for those who compare scopes by their text. What a
    /// `*` covers cannot be listed: it stands for itself.
    #[must_use]
    pub fn listed(&self, held: &[Scope]) -> BTreeSet<Scope> {
        let mut listed: BTreeSet<Scope> = held.iter().cloned().collect();
        for scope in held {
            let (resource, Some(action)) = parts(scope.as_str()) else { continue };
            let implied = self.0.get(action).into_iter().flatten();
            // What would be no scope, as it is too long, cannot be asked for either.
            listed.extend(implied.filter_map(|action| Scope::parse(&format!("{resource}:{action}")).ok()));
        }
        listed
    }
}

/// `write ⇒ read`, `admin ⇒ write`.
impl Default for Implications {
    fn default() -> Self {
        Self::new(&BTreeMap::from([
            ("admin".to_owned(), vec!["write".to_owned()]),
            ("write".to_owned(), vec!["read".to_owned()]),
        ]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        Scope::parse(text).unwrap()
    }

    #[test]
    fn implication() {
        let table = [
            ("clusters:write", "clusters:read", true),
            ("clusters:admin", "clusters:read", true),
            ("clusters:read", "clusters:write", false),
            ("clusters:write", "nodes:read", false),
            ("clusters:*", "clusters:delete", true),
            ("clusters:*", "clusters:*", true),
            ("clusters:*", "clusters", false),
            ("clusters:*", "clusters:a:read", false),
            ("*", "anything", true),
            ("*", "a:b", true),
            ("a:b:write", "a:b:read", true),
            ("write", "read", false),
            ("clusters:delete", "clusters:read", false),
            ("clusters:read", "clusters:*", false),
            ("Clusters:write", "clusters:read", false),
        ];
        for (held, required, covered) in table {
            assert_eq!(Implications::default().covers(scope(held), &scope(required)), covered, "{held} {required}");
        }
    }

    #[test]
    fn what_is_listed_is_covered() {
        let table: [(&[&str], &[&str]); 6] = [
            (&[], &[]),
            (&["a:admin", "b:read"], &["a:admin", "a:read", "a:write", "b:read"]),
            (&["a:b:write"], &["a:b:read", "a:b:write"]),
            (&["a:*", "*", "write"], &["*", "a:*", "write"]),
            (&["a:delete"], &["a:delete"]),
            (&["a:read", "a:write"], &["a:read", "a:write"]),
        ];
        let implications = Implications::default();
        for (held, expected) in table {
            let held = Scopes::parse(held).unwrap();
            let listed = implications.listed(held.as_slice());
            assert_eq!(listed.iter().map(Scope::as_str).collect::<Vec<_>>(), expected);
            assert!(listed.iter().all(|scope| implications.any_covers(held.as_slice(), scope)));
        }
        let longest = scope(&format!("{}:a", "x".repeat(126)));
        let longer = Implications::new(&BTreeMap::from([("a".to_owned(), vec!["long".to_owned()])]));
        assert_eq!(longer.listed(std::slice::from_ref(&longest)).into_iter().collect::<Vec<_>>(), [longest]);
    }

    #[test]
    fn a_cycle_of_implications_ends() {
        let cycle = Implications::new(&BTreeMap::from([
            ("a".to_owned(), vec!["b".to_owned()]),
            ("b".to_owned(), vec!["a".to_owned()]),
        ]));
        assert!(cycle.covers(scope("x:a"), &scope("x:b")));
        assert!(!cycle.covers(scope("x:a"), &scope("x:c")));
    }

    #[test]
    fn tokens() {
        for good in ["a", "a:b", "https://example.org/scope", "!", "~", &"x".repeat(128)] {
            assert!(Scope::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a\"", "a\\b", "é", "a\n", &"x".repeat(129)] {
            assert!(Scope::parse(bad).is_err(), "{bad}");
        }
        let wrong = Scopes::parse(&["b", "secret text", "a"]).unwrap_err().to_string();
        assert!(wrong.ends_with(" (number 2 of 3)") && !wrong.contains("secret"), "{wrong}");
        let many: Vec<_> = (0..=64).map(|n| format!("s{n}")).collect();
        assert!(Scopes::parse(&many).is_err());
        assert_eq!(Scopes::parse(many.get(..64).unwrap()).unwrap().as_slice().len(), 64);
        assert_eq!(Scopes::parse(&["b", "a", "b"]).unwrap(), Scopes::parse(&["a", "b"]).unwrap());
    }
}
