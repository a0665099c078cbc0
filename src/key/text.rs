//! The text of a key: `<prefix>_<id>_<secret>`.
//!
//! The last 61 characters are `_` and the secret part: 54 base62 digits of 32 random bytes and an
//! 8-byte tag, then 6 digits of the CRC-32 (IEEE) of all characters before them. Before that stand
//! `_` and the id's 22 digits; what is left is the prefix. One value has exactly one spelling, and
//! text is never trimmed. `tests/vectors` holds the format for other languages.

use std::fmt;
use std::hash::{Hash, Hasher};

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::base62;
use super::id::{ID_LEN, KeyId};
use super::values::Invalid;

/// Random bytes of a secret.
pub const RANDOM_LEN: usize = 32;
/// Bytes of the keyed tag behind them.
pub const TAG_LEN: usize = 8;
const BODY_LEN: usize = 54;
const CRC_LEN: usize = 6;
/// `_`, id, `_`, body, CRC.
const TAIL_LEN: usize = 1 + ID_LEN + 1 + BODY_LEN + CRC_LEN;
const MAX_PREFIX: usize = 24;
const MIN_PREFIX: usize = 2;

/// The whole text of a key: a secret. It cannot be printed; [`ApiKey::expose`] is the one way to
/// its characters, which are wiped when it is dropped.
#[derive(Clone)]
pub struct ApiKey(Zeroizing<String>);

impl ApiKey {
    /// Takes over text that was presented or made; says nothing about whether it is well-formed.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The characters. What they are given to must not keep or print them.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The id that stands where a key has it; nothing else of the text is looked at.
    #[must_use]
    pub fn id(&self) -> Option<KeyId> {
        let text = self.0.as_bytes();
        let prefix_len = text.len().checked_sub(TAIL_LEN).filter(|len| *len <= MAX_PREFIX)?;
        let start = prefix_len + 1;
        base62::decode(text.get(start..start + ID_LEN)?).ok().map(KeyId::from_bytes)
    }

    /// Whether `text` looks like a key: as long as one, with its underscores where a key has them. What
    /// does not is something else, and no key that was mistyped.
    #[must_use]
    pub fn has_form(text: &str) -> bool {
        let text = text.as_bytes();
        let prefix_len = text.len().checked_sub(TAIL_LEN).filter(|len| (MIN_PREFIX..=MAX_PREFIX).contains(len));
        prefix_len.is_some_and(|len| [len, len + 1 + ID_LEN].iter().all(|at| text.get(*at) == Some(&b'_')))
    }

    /// Reads the text.
    ///
    /// # Errors
    /// [`Malformed`], for the first check that fails.
    pub fn parse(&self) -> Result<ParsedKey, Malformed> {
        ParsedKey::from_text(&self.0)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(redacted)")
    }
}

/// Bytes that cannot be printed and are wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SecretBytes<const N: usize>([u8; N]);

impl<const N: usize> SecretBytes<N> {
    /// Takes over the bytes.
    #[must_use]
    pub const fn new(bytes: [u8; N]) -> Self {
        Self(bytes)
    }

    /// The bytes. What they are given to must not keep or print them.
    #[must_use]
    pub const fn expose(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> fmt::Debug for SecretBytes<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(redacted)")
    }
}

/// What a key's text begins with: 2 to 24 of `a-z0-9_`, beginning with a letter, ending without `_`.
#[derive(Clone, Copy)]
pub struct Prefix {
    bytes: [u8; MAX_PREFIX],
    len: u8,
}

impl Prefix {
    /// Parses `text`.
    ///
    /// # Errors
    /// When the text is not of that form.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        Self::from_bytes(text.as_bytes()).ok_or_else(|| {
            Invalid::new("must be 2 to 24 characters of a-z, 0-9 and _, beginning with a letter and not ending with _")
        })
    }

    fn from_bytes(text: &[u8]) -> Option<Self> {
        let (first, last) = (text.first()?, text.last()?);
        let well_formed = (MIN_PREFIX..=MAX_PREFIX).contains(&text.len())
            && first.is_ascii_lowercase()
            && *last != b'_'
            && text.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        let mut bytes = [0; MAX_PREFIX];
        bytes.get_mut(..text.len())?.copy_from_slice(text);
        well_formed.then_some(Self { bytes, len: u8::try_from(text.len()).ok()? })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let text = self.bytes.get(..usize::from(self.len)).unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }
}

/// `kc`.
impl Default for Prefix {
    fn default() -> Self {
        let mut bytes = [0; MAX_PREFIX];
        let [first, second, ..] = &mut bytes;
        (*first, *second) = (b'k', b'c');
        Self { bytes, len: 2 }
    }
}

impl PartialEq for Prefix {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Prefix {}

impl Hash for Prefix {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Why a text is no key. Says nothing about its characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// No key is that short or long.
    #[error("the text is not as long as a key")]
    Length,
    /// The underscores around the id are not where they must be.
    #[error("the underscores are not where a key has them")]
    Separator,
    /// What stands before the id is no prefix.
    #[error("the text does not begin with a prefix")]
    Prefix,
    /// A character of the id or the secret is no base62 digit.
    #[error("a character is not one of 0-9, A-Z and a-z")]
    Alphabet,
    /// The CRC is not that of the characters before it.
    #[error("the checksum does not match: a character was changed or left out")]
    Checksum,
    /// The id or the secret is a number that is too large.
    #[error("a part of the text is not a number that a key can hold")]
    Overflow,
}

impl From<base62::DecodeError> for Malformed {
    fn from(error: base62::DecodeError) -> Self {
        match error {
            base62::DecodeError::Alphabet => Self::Alphabet,
            base62::DecodeError::Overflow => Self::Overflow,
        }
    }
}

/// A text that is well-formed and has the right checksum. Whether its tag is right, only who has
/// the pepper can say.
#[derive(Debug, Clone)]
pub struct ParsedKey {
    /// What it begins with.
    pub prefix: Prefix,
    /// The key's id.
    pub id: KeyId,
    /// The secret itself.
    pub random: SecretBytes<RANDOM_LEN>,
    /// The keyed tag over all of these.
    pub tag: [u8; TAG_LEN],
}

impl ParsedKey {
    fn from_text(text: &str) -> Result<Self, Malformed> {
        let text = text.as_bytes();
        let prefix_len = text.len().checked_sub(TAIL_LEN).ok_or(Malformed::Length)?;
        if !(MIN_PREFIX..=MAX_PREFIX).contains(&prefix_len) {
            return Err(Malformed::Length);
        }
        let (prefix, tail) = text.split_at(prefix_len);
        let (Some((b'_', id)), Some((b'_', secret))) =
            (tail.get(..=ID_LEN).and_then(<[u8]>::split_first), tail.get(ID_LEN + 1..).and_then(<[u8]>::split_first))
        else {
            return Err(Malformed::Separator);
        };
        let prefix = Prefix::from_bytes(prefix).ok_or(Malformed::Prefix)?;
        let (body, crc) = secret.split_at(BODY_LEN);
        let id = base62::decode::<16>(id);
        let body = base62::decode::<{ RANDOM_LEN + TAG_LEN }>(body).map(Zeroizing::new);
        let crc = base62::decode::<4>(crc);
        // A foreign character first, then the checksum, so that a typo is called a typo even where
        // it makes a number too large.
        for error in [id.err(), body.as_ref().err().copied(), crc.err()].into_iter().flatten() {
            if error == base62::DecodeError::Alphabet {
                return Err(Malformed::Alphabet);
            }
        }
        let (before_crc, _) = text.split_at(text.len() - CRC_LEN);
        if crc? != crc32fast::hash(before_crc).to_be_bytes() {
            return Err(Malformed::Checksum);
        }
        let (id, body) = (id?, body?);
        let (random, tag) = body.split_at(RANDOM_LEN);
        let mut parsed =
            Self { prefix, id: KeyId::from_bytes(id), random: SecretBytes([0; RANDOM_LEN]), tag: [0; TAG_LEN] };
        parsed.random.0.copy_from_slice(random);
        parsed.tag.copy_from_slice(tag);
        Ok(parsed)
    }

    /// Writes the text: the inverse of [`ApiKey::parse`].
    #[must_use]
    pub fn render(&self) -> ApiKey {
        render(&self.prefix, self.id, &self.random, self.tag)
    }
}

/// Writes the text of a key.
#[must_use]
pub fn render(prefix: &Prefix, id: KeyId, random: &SecretBytes<RANDOM_LEN>, tag: [u8; TAG_LEN]) -> ApiKey {
    let mut body = Zeroizing::new([0; RANDOM_LEN + TAG_LEN]);
    body.iter_mut().zip(random.0.iter().chain(&tag)).for_each(|(to, from)| *to = *from);
    let mut digits = Zeroizing::new([0; BODY_LEN]);
    base62::encode(&*body, &mut *digits);
    // With the capacity for all of it, so that no half-written copy is left behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_PREFIX + TAIL_LEN));
    text.push_str(prefix.as_str());
    text.push('_');
    text.push_str(std::str::from_utf8(&id.digits()).unwrap_or_default());
    text.push('_');
    text.push_str(std::str::from_utf8(&*digits).unwrap_or_default());
    let mut crc = [0; CRC_LEN];
    base62::encode(&crc32fast::hash(text.as_bytes()).to_be_bytes(), &mut crc);
    text.push_str(std::str::from_utf8(&crc).unwrap_or_default());
    ApiKey(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefixes() -> impl Strategy<Value = String> {
        "[a-z][a-z0-9_]{0,22}[a-z0-9]"
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(prefix in prefixes(), id: [u8; 16], random: [u8; 32], tag: [u8; 8]) {
            let prefix = Prefix::parse(&prefix).unwrap();
            let id = KeyId::from_bytes(id);
            let text = render(&prefix, id, &SecretBytes::new(random), tag);
            let parsed = text.parse().unwrap();
            prop_assert_eq!(parsed.prefix, prefix);
            prop_assert_eq!(parsed.id, id);
            prop_assert_eq!(text.id(), Some(id));
            prop_assert_eq!(parsed.random.expose(), &random);
            prop_assert_eq!(parsed.tag, tag);
            let again = parsed.render();
            prop_assert_eq!(again.expose(), text.expose());
        }

        #[test]
        fn any_changed_character_is_refused(
            id: [u8; 16], random: [u8; 32], at in 0_usize..86, to in "[ -~]",
        ) {
            let text = render(&Prefix::default(), KeyId::from_bytes(id), &SecretBytes::new(random), [7; 8]);
            let mut changed = text.expose().to_owned();
            changed.replace_range(at..=at, &to);
            prop_assume!(changed != text.expose());
            prop_assert!(ApiKey::new(changed).parse().is_err());
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,120}") {
            let text = ApiKey::new(text);
            if let Ok(parsed) = text.parse() {
                prop_assert_eq!(text.id(), Some(parsed.id));
            }
            let _ = text.id();
        }

        #[test]
        fn what_is_read_has_one_spelling(start in "[a-z]{2}_[0-6][0-9A-Za-z]{21}_[0-9A-E][0-9A-Za-z]{53}") {
            // With the checksum that belongs to it, most such text is a key.
            let mut crc = [0; CRC_LEN];
            base62::encode(&crc32fast::hash(start.as_bytes()).to_be_bytes(), &mut crc);
            let text = start + std::str::from_utf8(&crc).unwrap();
            let parsed = ApiKey::new(text.clone()).parse().unwrap();
            let again = parsed.render();
            prop_assert_eq!(again.expose(), text);
        }
    }

    #[test]
    fn no_secret_can_be_printed() {
        let key = render(&Prefix::default(), KeyId::from_bytes([1; 16]), &SecretBytes::new([2; 32]), [3; 8]);
        let printed = format!("{key:?} {:?} {:?}", key.parse().unwrap().random, SecretBytes::new([9; 4]));
        assert_eq!(printed, "ApiKey(redacted) SecretBytes(redacted) SecretBytes(redacted)");
    }

    #[test]
    fn secrets_are_wiped_when_they_are_dropped() {
        fn wiped<T: ZeroizeOnDrop>(_: &T) {}
        let key = render(&Prefix::default(), KeyId::from_bytes([1; 16]), &SecretBytes::new([2; 32]), [3; 8]);
        // All that it holds.
        let ApiKey(text) = &key;
        wiped(text);
        wiped(&key.parse().unwrap().random);
    }

    #[test]
    fn the_usual_key_has_86_characters() {
        let key = render(&Prefix::default(), KeyId::from_bytes([0xff; 16]), &SecretBytes::new([0xff; 32]), [0xff; 8]);
        assert_eq!(key.expose().len(), 86);
    }
}
