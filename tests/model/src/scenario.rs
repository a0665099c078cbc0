//! What a search assumes: the topology, what the surroundings may do, and which parts of the protocol
//! are looked at closely. Small scenarios that each have one thing in them stand in for one giant space.
//!
//! Which of them are searched how far, and which rule breaks in which one, is in `tests/search.rs`.

use crate::state::{Budget, Left};

/// A configuration of the model.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name in tables.
    pub name: &'static str,
    /// How many keyclasp processes answer from memory: 1 or 2.
    pub replicas: u8,
    /// Whether the primary has a Redis replica.
    pub redis_replica: bool,
    /// Whether the store is embedded: one process, no lease, no log; the cache is invalidated in place.
    pub embedded: bool,
    /// Whether it has a second one, which follows the promoted one; the old primary stays cut off from
    /// both and goes on answering for ever.
    pub third_node: bool,
    /// Whether heartbeats and revokes are followed by WAIT 1. (Without, the replica is never promoted.)
    pub wait: bool,
    /// Whether a primary can restart in place, so that a revoke has to be on disk.
    pub disk: bool,
    /// L, in ticks.
    pub lease: Left,
    /// How often RevokeKey may be sent; after the first, it is a retry.
    pub tries: u8,
    /// Whether it is RevokeKeys: two commits, one of them for another key, and one fence.
    pub batch: bool,
    /// What the surroundings may do.
    pub budget: Budget,
    /// Whether heartbeats write the incarnation, as rule 1 says, and scripts are refused until then.
    /// Otherwise it is there with each new replid: that refuses less, so it allows more.
    pub incarnation_by_heartbeat: bool,
    /// Whether reading a log entry, dropping the record and advancing are steps of their own (rule 8).
    /// Otherwise they are one, which others may come before or after.
    pub log_in_steps: bool,
    /// Whether the second process is one that starts at any time, knowing nothing.
    pub joiner: bool,
    /// Whether the revoking process has seen no epoch before it revokes.
    pub fresh_revoker: bool,
    /// Whether members mark epochs as settled, and revokes rely on it.
    pub settled: bool,
    /// How many others wait for the first process and delete its row (rule 10): 0 to 2.
    pub sweepers: u8,
    /// Whether there is a caller that reads the record and writes it, later.
    pub updater: bool,
}

impl Scenario {
    /// Redis without a replica, nothing happens to it, one process.
    pub const STANDALONE: Scenario = Scenario {
        name: "standalone",
        replicas: 1,
        redis_replica: false,
        embedded: false,
        third_node: false,
        wait: false,
        disk: false,
        lease: 2,
        tries: 1,
        batch: false,
        budget: Budget::QUIET,
        incarnation_by_heartbeat: false,
        log_in_steps: false,
        joiner: false,
        fresh_revoker: false,
        settled: false,
        sweepers: 0,
        updater: false,
    };

    /// The embedded store.
    pub const EMBEDDED: Scenario = Scenario { name: "embedded", embedded: true, ..Scenario::STANDALONE };

    /// Redis without a replica, which crashes once and restarts in place with what is on its disk.
    pub const CRASH: Scenario = Scenario {
        name: "standalone, a crash",
        disk: true,
        budget: Budget { crashes: 1, ..Budget::QUIET },
        ..Scenario::STANDALONE
    };

    /// A primary and a replica with WAIT 1; the replica is promoted once while the old primary goes on
    /// answering, and rejoins at some time.
    pub const FAILOVER: Scenario = Scenario {
        name: "primary + replica, a failover",
        redis_replica: true,
        wait: true,
        budget: Budget { failovers: 1, ..Budget::QUIET },
        ..Scenario::STANDALONE
    };

    /// The same with two replicas of which the more advanced one is promoted; the old primary, cut off
    /// from both at once, never rejoins.
    pub const FAILOVER_OF_THREE: Scenario =
        Scenario { name: "primary + 2 replicas, a failover", third_node: true, ..Scenario::FAILOVER };

    /// As [`Scenario::FAILOVER_OF_THREE`], and somebody commits for another key, unconfirmed: the
    /// positions of two histories differ.
    pub const FAILOVER_OF_THREE_BUSY: Scenario = Scenario {
        name: "primary + 2 replicas, a failover, another key",
        budget: Budget { failovers: 1, others: 1, ..Budget::QUIET },
        ..Scenario::FAILOVER_OF_THREE
    };

    /// As [`Scenario::CRASH`], with commits for another key.
    pub const CRASH_BUSY: Scenario = Scenario {
        name: "standalone, a crash, another key",
        budget: Budget { crashes: 1, others: 1, ..Budget::QUIET },
        ..Scenario::CRASH
    };

    /// As [`Scenario::FAILOVER`], with commits for another key.
    pub const FAILOVER_BUSY: Scenario = Scenario {
        name: "primary + replica, a failover, another key",
        budget: Budget { failovers: 1, others: 1, ..Budget::QUIET },
        ..Scenario::FAILOVER
    };

    /// As [`Scenario::CRASH`], and RevokeKey is repeated after "unknown".
    pub const CRASH_RETRY: Scenario = Scenario { name: "standalone, a crash, a retry", tries: 2, ..Scenario::CRASH };

    /// As [`Scenario::FAILOVER`], and RevokeKey is repeated after "unknown".
    pub const FAILOVER_RETRY: Scenario =
        Scenario { name: "primary + replica, a failover, a retry", tries: 2, ..Scenario::FAILOVER };

    /// A crash and a failover.
    pub const CRASH_AND_FAILOVER: Scenario = Scenario {
        name: "primary + replica, a crash and a failover",
        disk: true,
        budget: Budget { crashes: 1, failovers: 1, ..Budget::QUIET },
        ..Scenario::FAILOVER
    };

    /// As [`Scenario::FAILOVER_BUSY`], with the incarnation written by a heartbeat.
    pub const FAILOVER_INCARNATION: Scenario = Scenario {
        name: "primary + replica, a failover, incarnation",
        incarnation_by_heartbeat: true,
        ..Scenario::FAILOVER_BUSY
    };

    /// As [`Scenario::CRASH_BUSY`], with the incarnation written by a heartbeat.
    pub const CRASH_INCARNATION: Scenario =
        Scenario { name: "standalone, a crash, incarnation", incarnation_by_heartbeat: true, ..Scenario::CRASH_BUSY };

    /// FLUSHALL, which keeps the replid. The key is created before it or after it.
    pub const FLUSHALL: Scenario = Scenario {
        name: "standalone, FLUSHALL",
        incarnation_by_heartbeat: true,
        budget: Budget { flushes: 1, creates: 1, others: 1, ..Budget::QUIET },
        ..Scenario::STANDALONE
    };

    /// FLUSHALL twice.
    pub const FLUSHALL_TWICE: Scenario = Scenario {
        name: "standalone, FLUSHALL twice",
        budget: Budget { flushes: 2, creates: 1, others: 1, ..Budget::QUIET },
        ..Scenario::FLUSHALL
    };

    /// The first replica is attached: the primary changes its replid and loses nothing.
    pub const RENAMED: Scenario = Scenario {
        name: "primary + replica, a new replid in place",
        budget: Budget { renames: 1, others: 1, ..Budget::QUIET },
        ..Scenario::FAILOVER
    };

    /// A Redis replica that nobody waits for and that is never promoted lags behind, and is reached by
    /// mistake.
    pub const LAGGING_REPLICA: Scenario =
        Scenario { name: "standalone + a lagging replica", redis_replica: true, ..Scenario::STANDALONE };

    /// The steps of rule 8 one by one.
    pub const LOG_IN_STEPS: Scenario = Scenario {
        name: "standalone, the log in steps",
        log_in_steps: true,
        budget: Budget { others: 1, ..Budget::QUIET },
        ..Scenario::STANDALONE
    };

    /// The steps of rule 8 one by one, and a crash in between.
    pub const LOG_IN_STEPS_CRASH: Scenario =
        Scenario { name: "standalone, a crash, the log in steps", log_in_steps: true, ..Scenario::CRASH_BUSY };

    /// The steps of rule 8 one by one, and a failover in between.
    pub const LOG_IN_STEPS_FAILOVER: Scenario = Scenario {
        name: "primary + 2 replicas, a failover, the log in steps",
        log_in_steps: true,
        ..Scenario::FAILOVER_OF_THREE_BUSY
    };

    /// RevokeKeys in two commits while a second process joins.
    pub const BATCH_JOINER: Scenario =
        Scenario { name: "standalone, RevokeKeys, a second process joins", batch: true, ..Scenario::JOINER };

    /// RevokeKeys in two commits, a crash.
    pub const BATCH_CRASH: Scenario =
        Scenario { name: "standalone, a crash, RevokeKeys", batch: true, ..Scenario::CRASH };

    /// RevokeKeys in two commits, a failover.
    pub const BATCH_FAILOVER: Scenario =
        Scenario { name: "primary + replica, a failover, RevokeKeys", batch: true, ..Scenario::FAILOVER };

    /// The log is trimmed, and entries that were not read are gone.
    pub const TRIMMED: Scenario = Scenario {
        name: "standalone, a trimmed log",
        budget: Budget { others: 1, trims: 2, ..Budget::QUIET },
        ..Scenario::STANDALONE
    };

    /// Two processes; one joins at any time.
    pub const JOINER: Scenario =
        Scenario { name: "standalone, a second process joins", replicas: 2, joiner: true, ..Scenario::STANDALONE };

    /// Two processes; one joins at any time; a crash.
    pub const JOINER_CRASH: Scenario =
        Scenario { name: "standalone, a crash, a second process joins", replicas: 2, joiner: true, ..Scenario::CRASH };

    /// Two processes; one joins at any time; a failover.
    pub const JOINER_FAILOVER: Scenario = Scenario {
        name: "primary + replica, a failover, a second process joins",
        replicas: 2,
        joiner: true,
        ..Scenario::FAILOVER
    };

    /// SIGTERM (rule 10).
    pub const LEAVING: Scenario =
        Scenario { name: "standalone, SIGTERM", budget: Budget { terms: 1, ..Budget::QUIET }, ..Scenario::STANDALONE };

    /// SIGTERM of one of two processes, a failover.
    pub const LEAVING_FAILOVER: Scenario = Scenario {
        name: "primary + replica, a failover, SIGTERM",
        budget: Budget { terms: 1, failovers: 1, ..Budget::QUIET },
        ..Scenario::FAILOVER
    };

    /// Two others delete the row when it was silent for L (rule 10), while heartbeats come and go.
    pub const SWEEPING: Scenario = Scenario {
        name: "standalone, silent rows deleted",
        sweepers: 2,
        budget: Budget { beats: 4, ..Budget::QUIET },
        ..Scenario::STANDALONE
    };

    /// One other deletes the row when it was silent for L, and a failover.
    pub const SWEEPING_FAILOVER: Scenario = Scenario {
        name: "primary + replica, a failover, silent rows deleted",
        sweepers: 1,
        budget: Budget { beats: 3, failovers: 1, ..Budget::QUIET },
        ..Scenario::FAILOVER
    };

    /// A caller has read a version that a failover loses, and commits when another history has that
    /// version too. (An intended change: `get` answers its epoch, `commit` names it.)
    pub const UPDATER: Scenario = Scenario {
        name: "primary + replica, a failover, an updater",
        updater: true,
        budget: Budget { failovers: 1, touches: 1, ..Budget::QUIET },
        ..Scenario::FAILOVER
    };

    /// The same with a crash that loses the version.
    pub const UPDATER_CRASH: Scenario = Scenario {
        name: "standalone, a crash, an updater",
        updater: true,
        budget: Budget { crashes: 1, touches: 1, ..Budget::QUIET },
        ..Scenario::CRASH
    };

    /// The process that revokes is fresh, and believes a member's mark that the epoch is settled. (An
    /// intended change.)
    pub const SETTLED: Scenario =
        Scenario { name: "standalone, a crash, settled epochs", settled: true, fresh_revoker: true, ..Scenario::CRASH };

    /// The same with a failover.
    pub const SETTLED_FAILOVER: Scenario = Scenario {
        name: "primary + replica, a failover, settled epochs",
        settled: true,
        fresh_revoker: true,
        ..Scenario::FAILOVER
    };

    /// Whether the counter of the lease table matters.
    pub fn counts_beats(&self) -> bool {
        self.budget.beats != Budget::UNLIMITED
    }
}
