//! What the tests share: servers that are started and stopped, clients, waiting for a condition.

pub(crate) mod api;
mod dir;
pub(crate) mod redis;

pub(crate) use dir::TempDir;
