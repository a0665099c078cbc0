//! Randomness as an argument.
//!
//! Everything that needs random bytes takes an [`Entropy`]. The operating system's generator is
//! asked here and nowhere else (`clippy.toml` bans it).

use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

/// A source of random bytes.
pub trait Entropy: Send + Sync {
    /// Fills `bytes`.
    ///
    /// # Errors
    /// When the source has nothing to give; nothing may be made from `bytes` then.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError>;
}

/// The source of random bytes failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct EntropyError;

/// `N` random bytes.
///
/// # Errors
/// As [`Entropy::fill`].
pub fn bytes<const N: usize>(entropy: &dyn Entropy) -> Result<[u8; N], EntropyError> {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes)?;
    Ok(bytes)
}

/// The operating system's generator (`getrandom(2)`).
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    #[expect(clippy::disallowed_methods, reason = "this is where ambient randomness becomes an argument")]
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        getrandom::fill(bytes).map_err(|_| EntropyError)
    }
}

/// Bytes that are the same in every run, for tests. Never for a key that somebody will use.
#[derive(Debug)]
pub struct SeededEntropy {
    seed: u64,
    counter: AtomicU64,
}

impl SeededEntropy {
    /// The sequence of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed, counter: AtomicU64::new(0) }
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        for chunk in bytes.chunks_mut(32) {
            let block = Sha256::new()
                .chain_update(self.seed.to_be_bytes())
                .chain_update(self.counter.fetch_add(1, Ordering::SeqCst).to_be_bytes())
                .finalize();
            chunk.iter_mut().zip(block).for_each(|(byte, random)| *byte = random);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operating_system_does_not_repeat_itself() {
        let (a, b): ([u8; 32], [u8; 32]) = (bytes(&OsEntropy).unwrap(), bytes(&OsEntropy).unwrap());
        assert_ne!(a, b);
    }

    #[test]
    fn a_seed_gives_the_same_sequence_again() {
        let (first, again) = (SeededEntropy::new(7), SeededEntropy::new(7));
        let a: [u8; 40] = bytes(&first).unwrap();
        assert_eq!(a, bytes::<40>(&again).unwrap());
        assert_ne!(a, bytes::<40>(&first).unwrap());
        assert_ne!(a, bytes::<40>(&SeededEntropy::new(8)).unwrap());
    }
}
