//! `[hash]`: what Argon2id costs.

use super::setting::section;
use super::types::Number;
use crate::key::Argon2Profile;

section! {
    /// Costs of Argon2id for new keys. A secret has 256 random bits, so light costs serve; they bound how
    /// fast a replica starts up under load. Keys that exist keep the costs that they were made with.
    ["hash"] pub(super) struct Hash {
        /// Memory in KiB; at least 8 per lane.
        m_kib: Number<8, 65_536> = 64,
        /// Passes.
        t: Number<1, 10> = 1,
        /// Lanes.
        p: Number<1, 4> = 1,
    }
    check |hash, reader| {
        if !hash.profile().is_bearable() {
            reader.refuse("m_kib", "is too little for so many lanes", "give it at least 8 for each lane of hash.p");
        }
    }
}

impl Hash {
    /// As the hasher takes it.
    pub(super) const fn profile(&self) -> Argon2Profile {
        Argon2Profile { m_kib: self.m_kib.get(), t: self.t.get(), p: self.p.get() }
    }
}
