//! The small values a record is made of, each parsed once with its limit.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// Why a value was refused: a sentence for the person who sent it, with the remedy. Never holds
/// a secret, and never the whole of what was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

impl Invalid {
    /// With the sentence.
    #[must_use]
    pub fn new(problem: impl Into<String>) -> Self {
        Self(problem.into())
    }
}

/// Parses each of `texts`. What is wrong with one says which one, counted from 1.
pub(super) fn each<T: AsRef<str>, V>(
    texts: &[T],
    parse: impl Fn(&str) -> Result<V, Invalid>,
) -> Result<Vec<V>, Invalid> {
    let one = |(number, text): (usize, &T)| {
        parse(text.as_ref()).map_err(|error| Invalid::new(format!("{error} (number {number} of {})", texts.len())))
    };
    (1..).zip(texts).map(one).collect()
}

/// Text of at most `max` characters. Control characters are refused, because names end up in
/// logs and terminals; `multiline` allows line feeds and tabs.
fn checked(text: &str, max: usize, multiline: bool) -> Result<&str, Invalid> {
    // Most text is short and plain, and every check of a key reads a record full of it.
    if text.len() <= max && text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Ok(text);
    }
    let characters = text.chars().count();
    if characters > max {
        return Err(Invalid::new(format!("is {characters} characters long; at most {max} are allowed")));
    }
    let allowed = |c: char| !c.is_control() || (multiline && matches!(c, '\n' | '\t'));
    if text.chars().all(allowed) { Ok(text) } else { Err(Invalid::new("holds a control character; remove it")) }
}

macro_rules! text_value {
    ($(#[$doc:meta])* $name:ident, required $required:literal, max $max:literal, multiline $multiline:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Parses `text`.
            ///
            /// # Errors
            /// When the text is too long, too short, or holds a control character.
            pub fn parse(text: &str) -> Result<Self, Invalid> {
                Self::check(text).map(|text| Self(text.into()))
            }

            /// Refuses what [`Self::parse`] refuses.
            pub(super) fn check(text: &str) -> Result<&str, Invalid> {
                if $required && text.is_empty() {
                    return Err(Invalid::new("is required"));
                }
                checked(text, $max, $multiline)
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

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

text_value!(
    /// A Keycloak realm, which is a tenant here: 1 to 255 characters.
    Realm, required true, max 255, multiline false
);
text_value!(
    /// What a key is called: up to 128 characters, may be empty.
    Name, required false, max 128, multiline false
);
text_value!(
    /// What a key is for: up to 1024 characters, may be empty.
    Description, required false, max 1024, multiline true
);
text_value!(
    /// Why something was done: up to 512 characters, may be empty.
    Reason, required false, max 512, multiline true
);
text_value!(
    /// Who did something: the name of a caller, 1 to 255 characters.
    Actor, required true, max 255, multiline false
);

impl Reason {
    /// A reason of the program's own, such as `rotated`.
    #[must_use]
    pub fn from_static(text: &'static str) -> Self {
        Self(text.into())
    }
}

/// What makes a call safe to repeat: 1 to 128 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId(String);

impl RequestId {
    /// Parses `text`.
    ///
    /// # Errors
    /// When the text is empty, too long, or holds a character that is not visible ASCII.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Invalid::new("must be 1 to 128 visible ASCII characters, such as a UUID"))
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Networks from which a key may be used: up to 32. Empty: anywhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cidrs(Vec<IpNet>);

impl Cidrs {
    /// Most networks of one key.
    pub const MAX: usize = 32;

    /// Parses networks such as `10.0.0.0/8`; a bare address means that address alone.
    ///
    /// # Errors
    /// When there are too many, one is no network, or one has bits behind its prefix.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, Invalid> {
        if texts.len() > Self::MAX {
            return Err(Invalid::new(format!("holds {} networks; at most {} are allowed", texts.len(), Self::MAX)));
        }
        let mut nets = each(texts, Self::parse_one)?;
        nets.sort();
        nets.dedup();
        Ok(Self(nets))
    }

    fn parse_one(text: &str) -> Result<IpNet, Invalid> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(IpNet::from(address.to_canonical()));
        }
        let net: IpNet = text
            .parse()
            .map_err(|_| Invalid::new("holds something that is no network; write it as 10.0.0.0/8 or 2001:db8::/32"))?;
        // `10.0.0.1/8` is more likely a mistake in the length than a wish for ten million addresses.
        if net.trunc() != net {
            return Err(Invalid::new(format!("{net} has bits set behind its prefix; write {}", net.trunc())));
        }
        Ok(net)
    }

    /// Whether `address` lies in one of the networks. IPv4-mapped IPv6 addresses count as IPv4.
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|net| net.contains(&address))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In CIDR form.
    pub fn texts(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter().map(ToString::to_string)
    }

    /// Whether every address that these allow is allowed by `other` as well.
    #[must_use]
    pub fn within(&self, other: &Self) -> bool {
        other.is_empty() || (!self.is_empty() && self.0.iter().all(|net| other.0.iter().any(|o| o.contains(net))))
    }
}

/// Principals that may present a key: up to 16 of up to 255 characters. Empty: any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Principals(Vec<String>);

impl Principals {
    /// Most principals of one key.
    pub const MAX: usize = 16;

    /// Parses principals, such as SPIFFE ids; compared byte by byte later.
    ///
    /// # Errors
    /// When there are too many, or one is empty, too long or holds a control character.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, Invalid> {
        if texts.len() > Self::MAX {
            return Err(Invalid::new(format!("holds {} principals; at most {} are allowed", texts.len(), Self::MAX)));
        }
        let mut principals = each(texts, |text| match checked(text, 255, false)? {
            "" => Err(Invalid::new("holds an empty principal; remove it")),
            text => Ok(text.to_owned()),
        })?;
        principals.sort();
        principals.dedup();
        Ok(Self(principals))
    }

    /// Whether `principal` is one of them.
    #[must_use]
    pub fn contain(&self, principal: &str) -> bool {
        self.0.iter().any(|one| one == principal)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The texts, sorted.
    #[must_use]
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }

    /// Whether everyone that these allow is allowed by `other` as well.
    #[must_use]
    pub fn within(&self, other: &Self) -> bool {
        other.is_empty() || (!self.is_empty() && self.0.iter().all(|one| other.contain(one)))
    }
}

/// Free labels: up to 16 pairs, names of 1 to 64 bytes, values of up to 512 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata(BTreeMap<String, String>);

impl Metadata {
    /// Most pairs of one key.
    pub const MAX: usize = 16;

    /// Parses pairs.
    ///
    /// # Errors
    /// When there are too many, or a name or value is too long or holds a control character.
    pub fn parse<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> Result<Self, Invalid> {
        let mut metadata = BTreeMap::new();
        for (name, value) in pairs {
            let (name, value) = (name.as_ref(), value.as_ref());
            if !(1..=64).contains(&name.len()) {
                return Err(Invalid::new("holds a name that is not 1 to 64 bytes long"));
            }
            if value.len() > 512 {
                return Err(Invalid::new("holds a value longer than 512 bytes"));
            }
            checked(name, 64, false)?;
            checked(value, 512, true)?;
            metadata.insert(name.to_owned(), value.to_owned());
            if metadata.len() > Self::MAX {
                return Err(Invalid::new(format!("holds more than {} pairs", Self::MAX)));
            }
        }
        Ok(Self(metadata))
    }

    /// The pairs, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_holds_to_the_character() {
        for (parse, max) in [
            (Realm::parse(&"é".repeat(255)).is_ok(), Realm::parse(&"é".repeat(256)).is_err()),
            (Name::parse(&"é".repeat(128)).is_ok(), Name::parse(&"é".repeat(129)).is_err()),
            (Description::parse(&"é".repeat(1024)).is_ok(), Description::parse(&"é".repeat(1025)).is_err()),
            (Reason::parse(&"é".repeat(512)).is_ok(), Reason::parse(&"é".repeat(513)).is_err()),
            (Actor::parse(&"é".repeat(255)).is_ok(), Actor::parse(&"é".repeat(256)).is_err()),
            (RequestId::parse(&"x".repeat(128)).is_ok(), RequestId::parse(&"x".repeat(129)).is_err()),
        ] {
            assert!(parse && max);
        }
        assert!(Realm::parse("").is_err() && Actor::parse("").is_err() && RequestId::parse("").is_err());
        assert!(Name::parse("").is_ok());
    }

    #[test]
    fn control_characters_are_refused_but_a_description_may_have_lines() {
        assert!(Name::parse("a\nb").is_err());
        assert!(Name::parse("\u{1b}[31mred").is_err());
        assert!(Description::parse("a\n\tb").is_ok());
        assert!(Description::parse("a\rb").is_err());
        assert!(RequestId::parse("a b").is_err());
    }

    #[test]
    fn networks() {
        let cidrs = Cidrs::parse(&["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"]).unwrap();
        assert!(cidrs.contain("10.255.0.1".parse().unwrap()));
        assert!(cidrs.contain("::ffff:10.0.0.1".parse().unwrap()));
        assert!(cidrs.contain("192.0.2.7".parse().unwrap()));
        assert!(!cidrs.contain("192.0.2.8".parse().unwrap()));
        assert!(!cidrs.contain("2001:db9::1".parse().unwrap()));
        assert_eq!(
            Cidrs::parse(&["10.0.0.1/8"]).unwrap_err().to_string(),
            "10.0.0.1/8 has bits set behind its prefix; write 10.0.0.0/8 (number 1 of 1)"
        );
        assert!(Cidrs::parse(&["10.0.0.0/33"]).is_err());
        let many: Vec<_> = (0..=32).map(|n| format!("10.0.0.{n}")).collect();
        assert!(Cidrs::parse(&many).is_err());
        assert!(Cidrs::parse(many.get(..32).unwrap()).is_ok());
    }

    #[test]
    fn what_is_wrong_in_a_list_says_which_one() {
        let networks = Cidrs::parse(&["192.0.2.7", "10.0.0.0/33"]).unwrap_err();
        let principals = Principals::parse(&["a", "b", "c\n", "d"]).unwrap_err();
        assert!(networks.to_string().ends_with(" (number 2 of 2)"), "{networks}");
        assert!(principals.to_string().ends_with("control character; remove it (number 3 of 4)"), "{principals}");
    }

    #[test]
    fn narrower_networks_lie_within() {
        let (wide, narrow) = (Cidrs::parse(&["10.0.0.0/8"]).unwrap(), Cidrs::parse(&["10.1.0.0/16"]).unwrap());
        assert!(narrow.within(&wide) && !wide.within(&narrow));
        assert!(narrow.within(&Cidrs::default()) && !Cidrs::default().within(&narrow));
    }

    #[test]
    fn principals_and_metadata_have_limits() {
        let many: Vec<_> = (0..=16).map(|n| format!("p{n}")).collect();
        assert!(Principals::parse(&many).is_err());
        assert!(Principals::parse(many.get(..16).unwrap()).is_ok());
        assert!(Principals::parse(&[""]).is_err());
        assert!(Metadata::parse(many.iter().map(|name| (name, ""))).is_err());
        assert!(Metadata::parse(many.iter().skip(1).map(|name| (name, ""))).is_ok());
        assert!(Metadata::parse([("x".repeat(64), "y".repeat(512))]).is_ok());
        assert!(Metadata::parse([("x".repeat(65), String::new())]).is_err());
        assert!(Metadata::parse([("x".to_owned(), "y".repeat(513))]).is_err());
        assert!(Metadata::parse([("", "")]).is_err());
    }
}
