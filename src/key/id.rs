//! The id of a key: 16 bytes, written as 22 base62 digits.

use std::fmt;
use std::str::FromStr;

use super::base62;
use super::values::Invalid;

/// Characters of an id's text form.
pub const ID_LEN: usize = 22;

/// A key's id: the owner's bucket, then 15 random bytes. Not a secret.
///
/// The order of ids is the order of their text forms.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 16]);

impl KeyId {
    /// The id of a new key of an owner whose bucket is `bucket`.
    #[must_use]
    pub const fn new(bucket: u8, random: [u8; 15]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o] = random;
        Self([bucket, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o])
    }

    /// From the bytes that are stored.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes that are stored.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Which bucket, and so which shard, holds the record.
    #[must_use]
    pub const fn bucket(&self) -> u8 {
        let [bucket, ..] = self.0;
        bucket
    }

    /// The text form, without an allocation.
    #[must_use]
    pub fn digits(&self) -> [u8; ID_LEN] {
        let mut digits = [0; ID_LEN];
        base62::encode(&self.0, &mut digits);
        digits
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(std::str::from_utf8(&self.digits()).unwrap_or_default())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.len() != ID_LEN {
            return Err(Invalid::new("a key id has 22 characters: the middle part of the key's text"));
        }
        base62::decode(text.as_bytes()).map(Self).map_err(|error| match error {
            base62::DecodeError::Alphabet => Invalid::new("a key id holds only 0-9, A-Z and a-z"),
            base62::DecodeError::Overflow => Invalid::new("no key has this id: the number is too large"),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_text_form_round_trips(bytes: [u8; 16]) {
            let id = KeyId::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse::<KeyId>(), Ok(id));
        }
    }

    #[test]
    fn what_is_no_id_is_refused_with_its_reason() {
        let problem = |text: &str| text.parse::<KeyId>().unwrap_err().to_string();
        assert!(problem("").contains("22 characters"));
        assert!(problem("0000000000000000000é").contains("22 characters"));
        assert!(problem("00000000000000000000-0").contains("only 0-9"));
        assert!(problem("zzzzzzzzzzzzzzzzzzzzzz").contains("too large"));
    }
}
