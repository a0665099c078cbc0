//! The cache of `src/fence/cache.rs`, that very source, over the locks and atomics of a scheduler that
//! tries its interleavings (`tests/interleavings.rs`).

/// What the cache is synchronised with here.
pub mod sync {
    pub use shuttle::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic};
}

#[path = "../../../src/fence/cache.rs"]
pub mod cache;
