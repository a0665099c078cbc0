//! `[cache]`: records in memory.

use super::setting::section;
use super::types::Number;

section! {
    /// Records of keys in memory, for checks of them. A change of a key drops its record before the change is
    /// answered, so that nothing is ever answered from an older one. With Redis a replica answers from memory
    /// while it holds a lease, and a change that takes something away is answered when every replica has
    /// dropped the record: see `[fence]`.
    ["cache"] pub(super) struct Cache {
        /// How much memory they may take, in MiB; 0: none are kept. A record takes about 1.5 KiB.
        memory_mib: Number<0, 65_536> = 64,
    }
    check |_, _| {}
}

impl Cache {
    /// In bytes.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.memory_mib.get()) << 20
    }
}
