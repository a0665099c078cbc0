//! Peppers, and what is derived from them: tags, hashes at rest, idempotency contents.
//!
//! K_x = HMAC-SHA256(pepper, "keyclasp/v1/" ‖ x). A [`Keyring`] holds several peppers: all of them
//! verify, the current one signs. Neither the store (hashes) nor the keyring (peppers) alone is
//! enough to make a key that passes.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use hmac::{Hmac, KeyInit, Mac};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::key::{
    ApiKey, Argon2Profile, KeyId, ParsedKey, PepperId, Prefix, RANDOM_LEN, SecretBytes, SecretHash, TAG_LEN, render,
};
use crate::random::{Entropy, EntropyError};

type HmacSha256 = Hmac<Sha256>;

/// Bytes of a pepper.
pub const PEPPER_LEN: usize = 32;
/// Bytes that SHA-256 reads at a time.
const SHA256_BLOCK: usize = 64;

/// HMAC-SHA256 under `key`.
fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    finish(keyed(key), parts)
}

fn keyed(key: &[u8]) -> HmacSha256 {
    // HMAC takes a key of any length; were it to refuse one, the all-zero state would sign nothing
    // that verifies anywhere else.
    HmacSha256::new_from_slice(key).unwrap_or_else(|_| HmacSha256::new(&hmac::digest::Key::<HmacSha256>::default()))
}

fn finish(mut mac: HmacSha256, parts: &[&[u8]]) -> [u8; 32] {
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// One pepper and the keys derived from it.
#[derive(Clone)]
pub struct Pepper {
    id: PepperId,
    check: [u8; 32],
    tag: HmacSha256,
    hash: HmacSha256,
    idempotency: HmacSha256,
}

impl Pepper {
    /// Derives the keys.
    #[must_use]
    pub fn new(id: PepperId, pepper: &SecretBytes<PEPPER_LEN>) -> Self {
        let derived = |name: &str| {
            let key = Zeroizing::new(hmac(pepper.expose(), &[b"keyclasp/v1/", name.as_bytes()]));
            keyed(&*key)
        };
        Self {
            id,
            check: hmac(pepper.expose(), &[b"check"]),
            tag: derived("tag"),
            hash: derived("hash"),
            idempotency: derived("idempotency"),
        }
    }

    /// The pepper's id.
    #[must_use]
    pub const fn id(&self) -> &PepperId {
        &self.id
    }

    /// HMAC(pepper, "check"): what a store keeps so that replicas find out when they differ.
    #[must_use]
    pub const fn check(&self) -> &[u8; 32] {
        &self.check
    }

    fn tag(&self, prefix: &Prefix, id: KeyId, random: &SecretBytes<RANDOM_LEN>) -> [u8; TAG_LEN] {
        let prefix = prefix.as_str().as_bytes();
        let len = u8::try_from(prefix.len()).unwrap_or(u8::MAX);
        let full = finish(self.tag.clone(), &[&[len], prefix, id.as_bytes(), random.expose()]);
        let mut tag = [0; TAG_LEN];
        tag.iter_mut().zip(full).for_each(|(to, from)| *to = from);
        tag
    }

    fn password(&self, id: KeyId, random: &SecretBytes<RANDOM_LEN>) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(finish(self.hash.clone(), &[id.as_bytes(), random.expose()]))
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pepper").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why a set of peppers is no keyring.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// The current pepper is not in the set.
    #[error("the current pepper `{0}` is not among the peppers")]
    NoCurrent(PepperId),
    /// Two peppers have one id.
    #[error("two peppers have the id `{0}`")]
    Duplicate(PepperId),
}

/// Peppers: all of them verify, the current one signs.
#[derive(Debug, Clone)]
pub struct Keyring {
    /// The current one first.
    peppers: Vec<Pepper>,
}

impl Keyring {
    /// A keyring of `peppers`, in which the one called `current` signs.
    ///
    /// # Errors
    /// When there is no such pepper, or two have one id.
    pub fn new(mut peppers: Vec<Pepper>, current: &PepperId) -> Result<Self, KeyringError> {
        for (index, pepper) in peppers.iter().enumerate() {
            if peppers.iter().skip(index + 1).any(|other| other.id == pepper.id) {
                return Err(KeyringError::Duplicate(pepper.id.clone()));
            }
        }
        match peppers.iter().position(|pepper| pepper.id == *current) {
            Some(index) => peppers.swap(0, index),
            None => return Err(KeyringError::NoCurrent(current.clone())),
        }
        Ok(Self { peppers })
    }

    /// The peppers, the current one first.
    pub fn peppers(&self) -> impl Iterator<Item = &Pepper> {
        self.peppers.iter()
    }

    fn get(&self, id: &PepperId) -> Option<&Pepper> {
        self.peppers.iter().find(|pepper| pepper.id == *id)
    }

    /// HMAC(K_idempotency, canonical bytes of a request) under the current pepper.
    ///
    /// # Panics
    /// Never: a keyring has a pepper.
    #[must_use]
    pub fn idempotency_content(&self, canonical: &[u8]) -> [u8; 32] {
        self.peppers.first().map_or([0; 32], |pepper| finish(pepper.idempotency.clone(), &[canonical]))
    }

    /// Whether `content` is that of `canonical` under any pepper: a keyring may have been switched
    /// since the first call.
    #[must_use]
    pub fn is_idempotency_content(&self, content: &[u8; 32], canonical: &[u8]) -> bool {
        self.peppers.iter().any(|pepper| {
            let expected = finish(pepper.idempotency.clone(), &[canonical]);
            bool::from(expected.ct_eq(content))
        })
    }

    /// Whether the tag of `key` was made under any of the peppers. What fails here was never one
    /// of our keys, and costs no I/O.
    #[must_use]
    pub fn is_genuine(&self, key: &ParsedKey) -> bool {
        self.peppers.iter().any(|pepper| {
            let expected = pepper.tag(&key.prefix, key.id, &key.random);
            bool::from(expected.ct_eq(&key.tag))
        })
    }
}

/// What verifying a secret came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the secret of the record.
    Match,
    /// It is not.
    Mismatch,
    /// The record's pepper is not in the keyring, or its costs are beyond bearing: nobody can say.
    Undecidable,
}

/// Makes and verifies secrets. Remembers which texts it has verified, by keyed digest under a key
/// of this process, so that Argon2 runs once per stored hash.
pub struct Hasher {
    keyring: Keyring,
    profile: Argon2Profile,
    /// SHA-256 that has read one block of randomness, the key of the digests of verified texts. It lives
    /// and dies with the process. Nobody ever sees such a digest, so that HMAC's second pass, which keeps
    /// one from being extended, would protect nothing.
    seen_key: Sha256,
    seen: Cache<KeyId, Seen>,
    argon2_runs: Counter,
}

/// Whether two digests are the same; takes as long if they are not. By words: what `subtle` does for each thing that it
/// compares would, for 32 bytes, cost more than to look a record up.
fn is_same(one: &[u8; 32], other: &[u8; 32]) -> bool {
    let words = |digest: &[u8; 32]| {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(digest.as_chunks().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        words
    };
    bool::from(words(one).ct_eq(&words(other)))
}

/// The keyed digest of a presented text, under a key of this process.
#[derive(Clone, Copy)]
pub struct TextDigest([u8; 32]);

impl TextDigest {
    /// Whether both are of the same text; takes as long if they are not.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        is_same(&self.0, &other.0)
    }
}

impl fmt::Debug for TextDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TextDigest(…)")
    }
}

/// That a text was verified before, and against which hash.
#[derive(Clone, Copy)]
pub struct Verified {
    stored: [u8; 32],
}

impl Verified {
    /// Whether it was verified against `stored`.
    #[must_use]
    pub fn against(&self, stored: &SecretHash) -> bool {
        is_same(&self.stored, &stored.digest)
    }
}

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verified")
    }
}

/// A text that was verified.
#[derive(Clone, Copy)]
struct Seen {
    text: TextDigest,
    /// The hash that it was verified against.
    stored: [u8; 32],
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").field("keyring", &self.keyring).field("profile", &self.profile).finish_non_exhaustive()
    }
}

/// How many verified texts are remembered; about 100 bytes each.
const SEEN: usize = 100_000;

impl Hasher {
    /// With today's keyring and costs.
    ///
    /// # Errors
    /// When there is no randomness for the process's digest key.
    pub fn new(keyring: Keyring, profile: Argon2Profile, entropy: &dyn Entropy) -> Result<Self, EntropyError> {
        let mut seen_key = Zeroizing::new([0; SHA256_BLOCK]);
        entropy.fill(&mut *seen_key)?;
        Ok(Self {
            keyring,
            profile,
            seen_key: Sha256::new_with_prefix(seen_key.as_slice()),
            seen: Cache::new(SEEN),
            argon2_runs: Counter::default(),
        })
    }

    /// The keyring.
    #[must_use]
    pub const fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// How often Argon2 ran in this process.
    #[must_use]
    pub fn argon2_runs(&self) -> u64 {
        self.argon2_runs.get()
    }

    /// Puts the count of Argon2 runs where `/metrics` finds it, under the registry's prefix.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("argon2_runs", "Runs of Argon2, to make or to verify a secret", self.argon2_runs.clone());
    }

    /// Makes the text of a new key and what is stored of it.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn make(&self, prefix: &Prefix, id: KeyId, entropy: &dyn Entropy) -> Result<(ApiKey, SecretHash), HashError> {
        let pepper = self.keyring.peppers.first().ok_or(HashError::Argon2)?;
        let mut random = Zeroizing::new([0; RANDOM_LEN]);
        entropy.fill(&mut *random)?;
        let random = SecretBytes::new(*random);
        let text = render(prefix, id, &random, pepper.tag(prefix, id, &random));
        let digest = self.argon2(&*pepper.password(id, &random), id, self.profile)?;
        Ok((text, SecretHash { digest, profile: self.profile, pepper: pepper.id.clone() }))
    }

    /// The digest of a text, to know it again by.
    #[must_use]
    pub fn digest(&self, text: &ApiKey) -> TextDigest {
        TextDigest(self.seen_key.clone().chain_update(text.expose().as_bytes()).finalize().into())
    }

    /// What is remembered of the text with this digest, if it was verified as the key `id` before: then
    /// it is well-formed and genuine. None says nothing about it.
    #[must_use]
    pub fn recall(&self, id: KeyId, text: &TextDigest) -> Option<Verified> {
        self.seen.get(&id).filter(|seen| seen.text.is(text)).map(|seen| Verified { stored: seen.stored })
    }

    /// Whether `text`, which reads as `key`, is the secret that `stored` is the hash of; runs
    /// Argon2. A match is remembered.
    ///
    /// # Errors
    /// When Argon2 itself fails, such as for want of memory.
    pub fn verify(&self, text: &ApiKey, key: &ParsedKey, stored: &SecretHash) -> Result<Verdict, HashError> {
        let (Some(pepper), true) = (self.keyring.get(&stored.pepper), stored.profile.is_bearable()) else {
            return Ok(Verdict::Undecidable);
        };
        let computed = self.argon2(&*pepper.password(key.id, &key.random), key.id, stored.profile)?;
        if bool::from(computed.ct_eq(&stored.digest)) {
            self.seen.insert(key.id, Seen { text: self.digest(text), stored: stored.digest });
            Ok(Verdict::Match)
        } else {
            Ok(Verdict::Mismatch)
        }
    }

    /// The profile of new keys.
    #[must_use]
    pub const fn profile(&self) -> Argon2Profile {
        self.profile
    }

    fn argon2(&self, password: &[u8], id: KeyId, profile: Argon2Profile) -> Result<[u8; 32], HashError> {
        self.argon2_runs.inc();
        let params = Params::new(profile.m_kib, profile.t, profile.p, Some(32)).map_err(|_| HashError::Argon2)?;
        let mut output = [0; 32];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(password, id.as_bytes(), &mut output)
            .map_err(|_| HashError::Argon2)?;
        Ok(output)
    }
}

/// A secret could not be made or verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// No randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// Argon2 failed.
    #[error("argon2 failed; its costs or this machine's memory do not allow it")]
    Argon2,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::OsEntropy;

    #[test]
    fn digests_differ_by_any_bit() {
        let digest = TextDigest([0x5a; 32]);
        assert!(digest.is(&TextDigest([0x5a; 32])));
        for bit in 0..256 {
            let mut other = digest;
            other.0[bit / 8] ^= 1 << (bit % 8);
            assert!(!digest.is(&other) && !other.is(&digest), "bit {bit}");
        }
    }

    #[test]
    fn no_more_texts_are_remembered_than_there_is_room_for() {
        let id = PepperId::parse("p1").unwrap();
        let keyring = Keyring::new(vec![Pepper::new(id.clone(), &SecretBytes::new([7; PEPPER_LEN]))], &id).unwrap();
        let hasher = Hasher::new(keyring, Argon2Profile::LIGHT, &OsEntropy).unwrap();
        for number in 0..2 * SEEN as u128 {
            let seen = Seen { text: TextDigest([1; 32]), stored: [2; 32] };
            hasher.seen.insert(KeyId::from_bytes(number.to_be_bytes()), seen);
        }
        // The room is shared out evenly, and each share is rounded up.
        let most = SEEN + SEEN / 100;
        assert!((SEEN / 2..=most).contains(&hasher.seen.len()), "{} are remembered", hasher.seen.len());
    }
}
