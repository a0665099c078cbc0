//! The composition root: the only place that names concrete parts.

use std::net::SocketAddr;

use crate::config::Config;

/// What runs once the service has started.
#[derive(Debug, Clone, Copy)]
pub struct Started {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where it answers metrics and health.
    pub ops_listen: SocketAddr,
}

/// Runs the service until SIGTERM.
///
/// # Errors
/// When it cannot start, or one of its parts dies.
pub fn run(config: Config, announce: impl FnOnce(&Started)) -> anyhow::Result<()> {
    let _ = (config, announce);
    anyhow::bail!("not wired yet")
}
