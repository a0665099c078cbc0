//! How often which proxy was told what. Labels have few values, fixed when the process starts.

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::refusal::Reason;

/// A kind of proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxy {
    /// Envoy's ext_authz.
    Envoy,
    /// Forward-auth.
    ForwardAuth,
}

impl Proxy {
    const ALL: [Self; 2] = [Self::Envoy, Self::ForwardAuth];

    /// Its name in metrics and logs.
    #[must_use]
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::ForwardAuth => "forward_auth",
        }
    }
}

/// What was decided.
#[derive(Debug, Clone, Copy)]
pub(super) enum Decision {
    Allowed,
    Anonymous,
    Refused(Reason),
}

/// How many decisions there are.
const DECISIONS: usize = 2 + Reason::COUNT;

impl Decision {
    fn all() -> impl Iterator<Item = Self> {
        [Self::Allowed, Self::Anonymous].into_iter().chain(Reason::ALL.map(Self::Refused))
    }

    const fn index(self) -> usize {
        match self {
            Self::Allowed => 0,
            Self::Anonymous => 1,
            Self::Refused(reason) => 2 + reason as usize,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Anonymous => "anonymous",
            Self::Refused(reason) => reason.name(),
        }
    }
}

/// The counters; clones count together.
#[derive(Clone)]
pub struct ProxyMetrics {
    decisions: Family<Labels, Counter>,
    /// The counters of `decisions`, in the order of proxy, dry run, decision: the check path takes no lock.
    counters: Arc<[Counter]>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    proxy: &'static str,
    decision: &'static str,
    dry_run: &'static str,
}

impl ProxyMetrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let decisions = Family::<Labels, Counter>::default();
        let mut counters = Vec::with_capacity(Proxy::ALL.len() * 2 * DECISIONS);
        for proxy in Proxy::ALL {
            for dry_run in ["false", "true"] {
                for decision in Decision::all() {
                    let labels = Labels { proxy: proxy.name(), decision: decision.name(), dry_run };
                    counters.push(decisions.get_or_create_owned(&labels));
                }
            }
        }
        Self { decisions, counters: counters.into() }
    }

    /// Puts them where `/metrics` finds them, under the registry's prefix, which is `keyclasp`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Requests that proxies asked about, by what was decided; in a dry run, by what would have been";
        registry.register("proxy_decisions", help, self.decisions.clone());
    }

    pub(super) fn decided(&self, proxy: Proxy, decision: Decision, dry_run: bool) {
        let at = (proxy as usize * 2 + usize::from(dry_run)) * DECISIONS + decision.index();
        if let Some(counter) = self.counters.get(at) {
            counter.inc();
        }
    }
}

impl Default for ProxyMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ProxyMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProxyMetrics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_decision_is_counted_under_its_own_labels() {
        let metrics = ProxyMetrics::new();
        for proxy in Proxy::ALL {
            for dry_run in [false, true] {
                for decision in Decision::all() {
                    metrics.decided(proxy, decision, dry_run);
                    let dry_run = if dry_run { "true" } else { "false" };
                    let labels = Labels { proxy: proxy.name(), decision: decision.name(), dry_run };
                    assert_eq!(metrics.decisions.get_or_create_owned(&labels).get(), 1, "{labels:?}");
                }
            }
        }
    }
}
