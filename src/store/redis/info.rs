//! What Redis says about itself: the start-up check and health read it here.

use std::collections::HashMap;

use crate::store::Durability;

/// A replica that has been silent for longer, in seconds, is not there: a busy one may be for a few.
const MOST_SILENT: u64 = 10;

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

    /// How many replicas follow it closely enough to confirm what is written.
    pub(super) fn followers(&self) -> u32 {
        let follows = |line: &&String| {
            let says = |name: &str| line.split(',').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
            // Seconds since it last said how far it is, which it does each second.
            let silent = says("lag").and_then(|lag| lag.parse::<u64>().ok());
            says("state") == Some("online") && silent.is_some_and(|lag| lag <= MOST_SILENT)
        };
        let replicas = (0..self.number("connected_slaves")).filter_map(|n| self.0.get(&format!("slave{n}")));
        u32::try_from(replicas.filter(follows).count()).unwrap_or(u32::MAX)
    }

    /// What a crash can lose. `appendfsync` and `save` are settings that Redis may keep to itself.
    pub(super) fn durability(&self, appendfsync: Option<&str>, save: Option<&str>) -> Durability {
        let lossy = |text: &str| Durability::Lossy(text.to_owned());
        if self.get("aof_enabled") == "1" {
            if self.get("aof_last_write_status") == "err" {
                return lossy("the append-only file cannot be written at the moment: a crash loses what came since");
            }
            return match appendfsync {
                Some("always") => Durability::Durable(
                    "append-only file, on disk before each answer (appendfsync always): a crash loses nothing that was \
                     answered"
                        .to_owned(),
                ),
                Some("everysec") => lossy(
                    "append-only file, on disk every second (appendfsync everysec): a crash of the machine loses up to \
                     one second",
                ),
                Some(_) => lossy(
                    "append-only file, on disk when the operating system likes (appendfsync no): a crash of the machine \
                     may lose half a minute",
                ),
                None => Durability::Unknown(
                    "append-only file, but CONFIG GET is not permitted, so nobody can say how often it reaches the \
                     disk: allow `config|get`, or ask whoever runs it for appendfsync"
                        .to_owned(),
                ),
            };
        }
        match save {
            Some("") => {
                lossy("neither append-only file nor snapshots: a restart loses everything. Set `appendonly yes`")
            }
            Some(save) => Durability::Lossy(format!(
                "snapshots alone (save {save}): a crash loses everything since the last one, {} changes as of now. Set \
                 `appendonly yes`",
                self.number("rdb_changes_since_last_save")
            )),
            None => lossy(
                "no append-only file: a crash loses at least everything since the last snapshot, if there is one. Set \
                 `appendonly yes`",
            ),
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
        let aof = info(&[("aof_enabled", "1"), ("aof_last_write_status", "ok")]);
        let always = aof.durability(Some("always"), None);
        assert!(always.is_durable() && always.text().contains("appendfsync always"), "{always:?}");
        let everysec = aof.durability(Some("everysec"), None);
        assert!(!everysec.is_durable() && everysec.text().contains("one second"), "{everysec:?}");
        assert!(matches!(aof.durability(Some("no"), None), Durability::Lossy(_)));
        assert!(matches!(aof.durability(None, None), Durability::Unknown(_)));
        let broken = info(&[("aof_enabled", "1"), ("aof_last_write_status", "err")]);
        assert!(matches!(broken.durability(Some("always"), None), Durability::Lossy(_)));
        assert!(info(&[]).durability(None, Some("")).text().contains("loses everything"));
        assert!(info(&[]).durability(None, Some("3600 1")).text().contains("save 3600 1"));
        assert!(matches!(info(&[]).durability(None, None), Durability::Lossy(_)));
    }

    #[test]
    fn a_replica_follows_while_it_says_so() {
        let line = |state, lag| format!("ip=127.0.0.1,port=1,state={state},offset=42,lag={lag}");
        let followers = |lines: &[String]| {
            let count = lines.len().to_string();
            let names: Vec<_> = (0..lines.len()).map(|n| format!("slave{n}")).collect();
            let fields = names.iter().map(String::as_str).zip(lines.iter().map(String::as_str));
            info(&fields.chain([("connected_slaves", count.as_str())]).collect::<Vec<_>>()).followers()
        };
        assert_eq!(followers(&[]), 0);
        assert_eq!(followers(&[line("online", 0), line("online", 10)]), 2);
        assert_eq!(followers(&[line("wait_bgsave", 0), line("online", 1), line("online", 11), String::new()]), 1);
        // Without the count there is nobody.
        assert_eq!(info(&[("slave0", &line("online", 0))]).followers(), 0);
    }

    #[test]
    fn fullness_counts_what_redis_counts_and_needs_a_bound() {
        assert_eq!(info(&[]).fullness(), Some(0.25));
        assert_eq!(info(&[("maxmemory", "0")]).fullness(), None);
        assert!(info(&[("maxmemory_policy", "allkeys-lru")]).evicts());
        assert!(!info(&[]).evicts());
    }
}
