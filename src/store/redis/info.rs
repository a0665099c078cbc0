//! What Redis says about itself: the start-up check and health read it here.

use std::collections::HashMap;

use crate::store::Durability;

/// The answer to INFO.
#[derive(Debug, Clone)]
pub(super) struct Info(HashMap<String, String>);

impl Info {
    /// Reads the text of INFO.
    pub(super) fn parse(text: &str) -> Self {
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Self(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> u64 {
        self.get(name).parse().unwrap_or(0)
    }

    /// Why this server must not be used, whatever is done on it, and what to do about it.
    pub(super) fn refusal(&self, location: &str) -> Option<String> {
        let redis = self.get("redis_version");
        let major: u32 = redis.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
        if major < 7 {
            return Some(format!(
                "{location} is Redis {redis}, and keyclasp needs Redis 7.0 or newer, or Valkey: upgrade it, or point store.url at a newer one"
            ));
        }
        // Valkey calls it server_mode.
        let mode = [self.get("redis_mode"), self.get("server_mode")].concat();
        if mode == "cluster" || mode == "sentinel" {
            return Some(format!(
                "{location} runs in {mode} mode, which this version of keyclasp does not speak: point store.url at a standalone Redis"
            ));
        }
        None
    }

    /// Why this server must not be used as it is now, and what to do about it: what a failover or a
    /// word to the running server changes.
    pub(super) fn reservation(&self, location: &str) -> Option<String> {
        let policy = self.get("maxmemory_policy");
        if policy != "noeviction" {
            return Some(format!(
                "{location} has the maxmemory-policy `{policy}`: when it is full it would drop keys and revocations at will. Set `maxmemory-policy noeviction`, in redis.conf or by CONFIG SET"
            ));
        }
        if !self.is_primary() {
            return Some(format!(
                "{location} is a replica of {}:{}: point store.url at the primary",
                self.get("master_host"),
                self.get("master_port")
            ));
        }
        None
    }

    /// Whether it is a primary.
    pub(super) fn is_primary(&self) -> bool {
        self.get("role") == "master"
    }

    /// Which software, in which version.
    pub(super) fn version(&self) -> String {
        match self.get("valkey_version") {
            "" => format!("Redis {}", self.get("redis_version")),
            valkey => format!("Valkey {valkey}"),
        }
    }

    /// Whether it drops keys when it is full.
    pub(super) fn evicts(&self) -> bool {
        self.get("maxmemory_policy") != "noeviction"
    }

    /// How full it is, where it has a bound: by what Redis itself compares with it.
    pub(super) fn fullness(&self) -> Option<f64> {
        let used = self.number("used_memory").saturating_sub(self.number("mem_not_counted_for_evict"));
        match self.number("maxmemory") {
            0 => None,
            #[expect(clippy::cast_precision_loss, reason = "a ratio for people; bytes lie far below 2^53")]
            max => Some(used as f64 / max as f64),
        }
    }

    /// What a crash can lose. `appendfsync` and `save` are settings that Redis may keep to itself; so many
    /// replicas are `confirming` each change.
    pub(super) fn durability(&self, appendfsync: Option<&str>, save: Option<&str>, confirming: u32) -> Durability {
        let replicas = match (self.number("connected_slaves"), u64::from(confirming)) {
            (0, 0) => String::new(),
            (1, 0) => "; 1 replica follows, asynchronously".to_owned(),
            (n, 0) => format!("; {n} replicas follow, asynchronously"),
            (n, needed) if n < needed => format!(
                "; {needed} of its replicas have to confirm each change, and {n} are connected: nothing can be changed until there are more"
            ),
            (n, needed) => format!("; a change is answered when {needed} of {n} connected replicas have it"),
        };
        if self.get("aof_enabled") == "1" {
            if self.get("aof_last_write_status") == "err" {
                return Durability::Lossy(format!(
                    "the append-only file cannot be written at the moment: a crash loses what came since{replicas}"
                ));
            }
            return match appendfsync {
                Some("always") => Durability::Durable(format!(
                    "append-only file, on disk before each answer (appendfsync always): a crash loses nothing that was answered{replicas}"
                )),
                Some("everysec") => Durability::Lossy(format!(
                    "append-only file, on disk every second (appendfsync everysec): a crash of the machine loses up to one second{replicas}"
                )),
                Some(_) => Durability::Lossy(format!(
                    "append-only file, on disk when the operating system likes (appendfsync no): a crash of the machine may lose half a minute{replicas}"
                )),
                None => Durability::Unknown(format!(
                    "append-only file, but CONFIG GET is not permitted, so nobody can say how often it reaches the disk: allow `config|get`, or ask whoever runs it for appendfsync{replicas}"
                )),
            };
        }
        match save {
            Some("") => Durability::Lossy(format!(
                "neither append-only file nor snapshots: a restart loses everything. Set `appendonly yes`{replicas}"
            )),
            Some(save) => Durability::Lossy(format!(
                "snapshots alone (save {save}): a crash loses everything since the last one, {} changes as of now. Set `appendonly yes`{replicas}",
                self.number("rdb_changes_since_last_save")
            )),
            None => Durability::Lossy(format!(
                "no append-only file: a crash loses at least everything since the last snapshot, if there is one. Set `appendonly yes`{replicas}"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(overrides: &[(&str, &str)]) -> Info {
        let mut info = Info::parse(
            "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n\r\n# Memory\r\nused_memory:300\r\n\
             mem_not_counted_for_evict:50\r\nmaxmemory:1000\r\nmaxmemory_policy:noeviction\r\n# Replication\r\n\
             role:master\r\nconnected_slaves:0\r\n# Persistence\r\naof_enabled:0\r\nrdb_changes_since_last_save:7\r\n",
        );
        info.0.extend(overrides.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        info
    }

    #[test]
    fn what_keyclasp_can_rely_on_is_not_refused() {
        assert_eq!(info(&[]).refusal("here"), None);
        assert_eq!(info(&[]).reservation("here"), None);
        let valkey = info(&[("redis_version", "7.2.4"), ("server_name", "valkey"), ("valkey_version", "8.0.1")]);
        assert_eq!(valkey.refusal("here"), None);
        assert_eq!(valkey.version(), "Valkey 8.0.1");
        assert_eq!(info(&[]).version(), "Redis 7.0.15");
        assert_eq!(info(&[("redis_version", "8.2.0")]).refusal("here"), None);
    }

    #[test]
    fn each_refusal_says_what_it_found_and_what_to_do() {
        for (field, value, remedy, lasts) in [
            ("redis_version", "6.2.14", "upgrade it", true),
            ("redis_version", "", "upgrade it", true),
            ("redis_mode", "cluster", "standalone Redis", true),
            ("redis_mode", "sentinel", "standalone Redis", true),
            ("maxmemory_policy", "allkeys-lru", "noeviction", false),
            ("maxmemory_policy", "volatile-ttl", "noeviction", false),
            ("maxmemory_policy", "", "noeviction", false),
            ("role", "slave", "at the primary", false),
        ] {
            let info = info(&[(field, value)]);
            let (refusal, reservation) = (info.refusal("redis://here:1/0"), info.reservation("redis://here:1/0"));
            assert_eq!((refusal.is_some(), reservation.is_some()), (lasts, !lasts), "{field} {value}");
            let text = refusal.or(reservation).unwrap();
            assert!(text.contains(remedy) && text.contains("redis://here:1/0"), "{text}");
            assert!(text.contains(value) || field == "role", "{text}");
        }
    }

    #[test]
    fn durability_is_what_the_settings_promise_and_no_more() {
        let aof = info(&[("aof_enabled", "1"), ("aof_last_write_status", "ok"), ("connected_slaves", "2")]);
        let always = aof.durability(Some("always"), None, 0);
        assert!(always.is_durable() && always.text().contains("2 replicas"), "{always:?}");
        let confirmed = |needed| aof.durability(Some("always"), None, needed).text().to_owned();
        assert!(confirmed(2).contains("when 2 of 2 connected replicas have it"), "{}", confirmed(2));
        assert!(confirmed(3).contains("nothing can be changed"), "{}", confirmed(3));
        let everysec = aof.durability(Some("everysec"), None, 0);
        assert!(!everysec.is_durable() && everysec.text().contains("one second"), "{everysec:?}");
        assert!(matches!(aof.durability(Some("no"), None, 0), Durability::Lossy(_)));
        assert!(matches!(aof.durability(None, None, 0), Durability::Unknown(_)));
        let broken = info(&[("aof_enabled", "1"), ("aof_last_write_status", "err")]);
        assert!(matches!(broken.durability(Some("always"), None, 0), Durability::Lossy(_)));
        assert!(info(&[]).durability(None, Some(""), 0).text().contains("loses everything"));
        assert!(info(&[]).durability(None, Some("3600 1"), 0).text().contains("save 3600 1"));
        assert!(matches!(info(&[]).durability(None, None, 0), Durability::Lossy(_)));
    }

    #[test]
    fn fullness_counts_what_redis_counts_and_needs_a_bound() {
        assert_eq!(info(&[]).fullness(), Some(0.25));
        assert_eq!(info(&[("maxmemory", "0")]).fullness(), None);
        assert!(info(&[("maxmemory_policy", "allkeys-lru")]).evicts());
        assert!(!info(&[]).evicts());
    }
}
