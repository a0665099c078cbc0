//! What the cache is synchronised with, in one place: its test under a scheduler that tries the
//! interleavings puts its own here.

pub(super) use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic};
