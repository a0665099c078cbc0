//! The types that settings have.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::setting::{Fault, Setting};
use super::source::Raw;
use crate::key::{Actor, Invalid, OwnerKind, OwnerRef, Prefix, Realm, Scope};

/// The text of a value that is text.
pub(super) fn text(value: &Raw) -> Option<&str> {
    match value {
        Raw::Env(text) | Raw::String(text) => Some(text),
        _ => None,
    }
}

impl Setting for bool {
    fn form() -> String {
        "true or false".to_owned()
    }

    fn example() -> String {
        "true".to_owned()
    }

    fn parse(value: &Raw, _: &Path) -> Result<Self, Fault> {
        match value {
            Raw::Boolean(value) => Ok(*value),
            Raw::Env(text) => text.parse().map_err(|_| Fault::form::<Self>()),
            _ => Err(Fault::form::<Self>()),
        }
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Number<MIN, MAX> {
    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32> Setting for Number<MIN, MAX> {
    fn form() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }

    fn example() -> String {
        MIN.max(1).to_string()
    }

    fn parse(value: &Raw, _: &Path) -> Result<Self, Fault> {
        let number = match value {
            Raw::Integer(number) => u32::try_from(*number).ok(),
            Raw::Env(text) => text.parse().ok(),
            _ => None,
        };
        let range = || Fault::with::<Self>("choose a number in that range");
        number.filter(|number| (MIN..=MAX).contains(number)).map(Self).ok_or_else(range)
    }
}

/// The longest duration that a setting takes: 100 years.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

impl Setting for Duration {
    fn form() -> String {
        "a duration of more than nothing".to_owned()
    }

    fn example() -> String {
        "\"90d\", \"12h\" or \"500ms\"".to_owned()
    }

    fn parse(value: &Raw, _: &Path) -> Result<Self, Fault> {
        text(value)
            .and_then(|text| humantime::parse_duration(text).ok())
            .filter(|span| !span.is_zero() && *span <= LONGEST)
            .ok_or_else(Fault::form::<Self>)
    }
}

/// A duration, or `"none"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MaybeDuration(pub(super) Option<Duration>);

impl Setting for MaybeDuration {
    fn form() -> String {
        "a duration, or \"none\"".to_owned()
    }

    fn example() -> String {
        "\"90d\", \"12h\" or \"none\"".to_owned()
    }

    fn parse(value: &Raw, base: &Path) -> Result<Self, Fault> {
        match text(value) {
            Some("none") => Ok(Self(None)),
            _ => Duration::parse(value, base).map(|span| Self(Some(span))).map_err(|_| Fault::form::<Self>()),
        }
    }
}

impl Setting for SocketAddr {
    fn form() -> String {
        "an IP address and a port".to_owned()
    }

    fn example() -> String {
        "\"127.0.0.1:7413\" or \"[::]:7413\"".to_owned()
    }

    fn parse(value: &Raw, _: &Path) -> Result<Self, Fault> {
        text(value).and_then(|text| text.parse().ok()).ok_or_else(Fault::form::<Self>)
    }
}

impl Setting for PathBuf {
    fn form() -> String {
        "a path".to_owned()
    }

    fn example() -> String {
        "\"path/of/it\"".to_owned()
    }

    fn parse(value: &Raw, base: &Path) -> Result<Self, Fault> {
        match text(value) {
            None | Some("") => Err(Fault::form::<Self>()),
            Some(path) => Ok(base.join(path)),
        }
    }
}

/// Unset is a value of its own.
impl<T: Setting> Setting for Option<T> {
    fn form() -> String {
        T::form()
    }

    fn example() -> String {
        T::example()
    }

    fn parse(value: &Raw, base: &Path) -> Result<Self, Fault> {
        T::parse(value, base).map(Some)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

/// In the environment separated by commas.
impl<T: Setting> Setting for Vec<T> {
    fn form() -> String {
        format!("a list, each {}", T::form())
    }

    fn example() -> String {
        format!("[{}]", T::example())
    }

    fn parse(value: &Raw, base: &Path) -> Result<Self, Fault> {
        match value {
            Raw::Array(nodes) => nodes.iter().map(|node| T::parse(&node.value, base)).collect(),
            Raw::Env(text) if text.trim().is_empty() => Ok(Self::new()),
            Raw::Env(text) => text.split(',').map(|one| T::parse(&Raw::Env(one.trim().to_owned()), base)).collect(),
            _ => Err(Fault::form::<Self>()),
        }
    }
}

/// A value that is parsed from text by a type of the domain.
macro_rules! parsed {
    ($type:ty, $form:literal, $example:literal, $parse:expr) => {
        impl Setting for $type {
            fn form() -> String {
                $form.to_owned()
            }

            fn example() -> String {
                $example.to_owned()
            }

            fn parse(value: &Raw, _: &Path) -> Result<Self, Fault> {
                let text = text(value).ok_or_else(Fault::form::<Self>)?;
                let parse: fn(&str) -> Result<Self, $crate::key::Invalid> = $parse;
                parse(text).map_err(Fault::with::<Self>)
            }
        }
    };
}
pub(super) use parsed;

parsed!(Prefix, "a prefix", "\"kc\"", Prefix::parse);
parsed!(Scope, "a scope", "\"clusters:read\"", Scope::parse);
parsed!(Actor, "a name", "\"issuing-service\"", |text| Actor::parse(text)
    .map_err(|error| Invalid::new(format!("it {error}"))));
parsed!(Realm, "a realm", "\"production\"", |text| Realm::parse(text)
    .map_err(|error| Invalid::new(format!("it {error}"))));
parsed!(OwnerRef, "an owner", "\"user:a6b1…\"", parse_owner);

/// An owner as people write it: `user:ID`, `service-account:ID`, `client:ID` or `external:ID`.
///
/// # Errors
/// When the kind is none of these, or the id none.
pub fn parse_owner(text: &str) -> Result<OwnerRef, Invalid> {
    let form = || Invalid::new("write it as user:ID, service-account:ID, client:ID or external:ID");
    let (kind, id) = text.split_once(':').ok_or_else(form)?;
    let kind = OwnerKind::ALL.into_iter().find(|known| known.name() == kind).ok_or_else(form)?;
    OwnerRef::parse(kind, id).map_err(|error| Invalid::new(format!("the id {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners() {
        for kind in OwnerKind::ALL {
            let text = format!("{}:a:b", kind.name());
            let owner = parse_owner(&text).unwrap();
            assert_eq!((owner.kind(), owner.id()), (kind, "a:b"));
        }
        for bad in ["", "user", "user:", "users:a", "User:a", ":a"] {
            assert!(parse_owner(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_example_is_of_its_form() {
        fn check<T: Setting>() {
            for example in T::example().split(" or ").flat_map(|some| some.split("\", ")) {
                let example = if example.ends_with('"') || !example.starts_with('"') {
                    example.to_owned()
                } else {
                    format!("{example}\"")
                };
                let value = super::super::source::literal(&example).unwrap();
                assert!(T::parse(&value, Path::new("")).is_ok(), "{example}");
            }
        }
        check::<bool>();
        check::<Number<1, 5>>();
        check::<Duration>();
        check::<MaybeDuration>();
        check::<SocketAddr>();
        check::<PathBuf>();
        check::<Vec<Scope>>();
        check::<Prefix>();
        check::<Actor>();
        check::<Realm>();
        check::<OwnerRef>();
    }
}
