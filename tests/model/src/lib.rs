//! A model of keyclasp's fenced revocation, searched exhaustively with stateright.
//!
//! The claim: *no ValidateKey that starts after RevokeKey answered OK accepts the key, on any replica*,
//! although every replica answers from memory. The model holds one key, up to two keyclasp processes
//! ("replicas"), one shard on up to three Redis nodes (the third one only confirms), one RevokeKey and two
//! ValidateKey calls at a time, and lets everything that is not forbidden happen in every order: each
//! message is a step of its own and may be delayed for ever, which covers pauses, slow links and lost
//! connections alike; a request may reach any node, since connections and addresses can be stale.
//!
//! | file | what it holds |
//! |---|---|
//! | [`rules`] | the rules by name, each of which can be removed |
//! | [`scenario`] | topologies, faults, and what is looked at closely |
//! | [`state`] | what a state consists of |
//! | [`model`] | the actions, when each is possible, and the property |
//! | [`redis`] | nodes, replication, disk, the fence in front of a script: rules 1 and 3 |
//! | [`surroundings`] | time, failover, restart, FLUSHALL, commits of others |
//! | [`replica`] | heartbeat, lease, epochs, log: rules 2, 6, 7, 8, and leaving (10) |
//! | [`validate`] | ValidateKey: rule 9 |
//! | [`revoke`] | RevokeKey: rules 4 and 5; sweeping silent rows (10); commits by epoch; settled epochs |
//!
//! What a search finds is a proof for the scenario only. Not in the model: clock rates that differ (the
//! margin of 1 % is argued, not searched: here all clocks tick together), partial partitions of three Redis
//! nodes, two heartbeats of one process under way at once, a restored backup, more than two calls at once,
//! a full memory (it only refuses), several shards (each has an epoch, a lease and a log of its own, and a
//! key lives in one), and the negative answers that rule 9 lets be cached (the model caches valid keys
//! only: a cached refusal cannot accept).

pub mod memory;
pub mod model;
pub mod redis;
pub mod replica;
pub mod revoke;
pub mod rules;
pub mod scenario;
pub mod state;
pub mod surroundings;
pub mod validate;

pub use model::{Action, Fence};
pub use rules::Rule;
pub use scenario::Scenario;
