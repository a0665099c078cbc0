//! What the tests share: servers that are started and stopped, clients, waiting for a condition.

pub(crate) mod api;
mod dir;
pub(crate) mod echo;
pub(crate) mod envoy;
pub(crate) mod http1;
pub(crate) mod json;
pub(crate) mod keycloak;
pub(crate) mod meddled;
pub(crate) mod proxy;
pub(crate) mod redis;
pub(crate) mod server;
pub(crate) mod shell;
pub(crate) mod world;

use std::path::PathBuf;
use std::time::Duration;

use keyclasp::clock::{Clock, SystemClock};

pub(crate) use dir::TempDir;

/// Where `scripts/setup.sh` puts things.
pub(crate) fn tools() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
    cache.join("keyclasp-tools")
}

/// Asks until there is an answer. None: there was none within `bound`.
pub(crate) fn eventually<T>(bound: Duration, mut answer: impl FnMut() -> Option<T>) -> Option<T> {
    let clock = SystemClock::new();
    loop {
        let late = clock.elapsed() > bound;
        if let Some(answer) = answer() {
            return Some(answer);
        }
        if late {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Polls until `condition` holds, for at most thirty seconds.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    for _ in 0..3000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never came to be: {what}");
}
