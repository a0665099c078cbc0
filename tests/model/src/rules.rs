//! The rules of fenced revocation, by the names that the model uses for them: one for each part whose
//! removal can be searched for. A search runs with all of them, or with exactly one removed.
//!
//! The number in front is the rule's, as in docs/CONSISTENCY.md.

/// Writes the enumeration and the list of its variants from one text.
macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident,)*) => {
        /// A rule, or the part of one, that can be removed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Rule {
            $($(#[$doc])* $rule,)*
        }

        impl Rule {
            /// All of them.
            pub const ALL: &[Rule] = &[$(Rule::$rule,)*];
        }
    };
}

rules! {
    /// 1. An epoch is the replid *and* an incarnation. Removed: the replid alone.
    Incarnation,
    /// 1. Every script but the heartbeat is refused while the incarnation is not the node's own.
    /// Removed: whatever incarnation is stored is taken for the node's.
    ScriptsRefuseWhileNotOwn,
    /// 1, 9c. A read is refused by a node that is in another epoch than the caller.
    ReadChecksEpoch,
    /// 1, 9c. A read is refused by a node that is no primary.
    ReadChecksRole,
    /// 1, 8. Log entries come from a script that carries the epoch.
    LogCarriesEpoch,
    /// 1, 8. An acknowledgement carries its epoch.
    AckCarriesEpoch,
    /// 1, 5. A revoke looks for acknowledgements in the epoch in which it ran.
    PollChecksEpoch,
    /// 2. A lease belongs to a process. Removed: two processes beat and acknowledge under one id.
    OwnIdentity,
    /// 3. Heartbeats are followed by WAIT.
    WaitOnBeat,
    /// 3. Revokes are followed by WAIT.
    WaitOnRevoke,
    /// 3. A revoke is on disk before OK where a primary can restart in place.
    OnDiskBeforeOk,
    /// 4. A revoke of a revoked key writes again.
    RetryWrites,
    /// 5. OK waits for the members.
    AwaitMembers,
    /// 5. OK waits until L after this process first saw the epoch.
    AwaitNewEpoch,
    /// 6. The lease is counted from when the heartbeat was sent. Removed: from its reply.
    LeaseFromSend,
    /// 6. The lease is usable only once the heartbeat's tail is applied.
    UsableAtTail,
    /// 6. The lease runs on a clock that counts suspend.
    ClockCountsSuspend,
    /// 7. A new epoch drops the lease.
    NewEpochDropsLease,
    /// 7. A new epoch clears the cache.
    NewEpochClearsCache,
    /// 7. A new epoch detaches the loads.
    NewEpochDetachesLoads,
    /// 7. A new epoch changes the generation.
    NewEpochChangesGeneration,
    /// 7. A new epoch moves the cursor to its tail.
    NewEpochMovesCursor,
    /// 7. A new epoch discards log entries that were read in the old one and are not applied yet.
    NewEpochDiscardsEntries,
    /// 7. An epoch that was left is never taken up again.
    NeverReturns,
    /// 7. A trimmed cursor is a new generation. Removed: reading goes on with what there is.
    TrimIsNoticed,
    /// 7. A log whose tail lies before the cursor is a new generation.
    ShortLogIsNoticed,
    /// 8. Drop the cached record first, then advance applied.
    DropThenAdvance,
    /// 8. An entry detaches the load of its key too.
    EntryDetachesLoad,
    /// 9a. A call needs a lease.
    LeaseNeeded,
    /// 9a. The lease is checked before the lookup. Removed: after it.
    LeaseBeforeLookup,
    /// 9a. The generation is noted in the same step as the lease is checked, or before. Removed: after
    /// it, so that the two may belong to different generations.
    GenerationNotedWithLease,
    /// 9b. What the lookup finds counts only in the generation of (a).
    LookupChecksGeneration,
    /// 9d. A detached load is not inserted.
    InsertChecksAttached,
    /// 9d. A detached load is not joined by a later call.
    JoinChecksAttached,
    /// RevokeKeys. All commits of one shard that share a fence have run in one epoch.
    BatchInOneEpoch,
    /// RevokeKeys. The members that are waited for are those of the last commit's reply.
    MembersOfLastReply,
    /// 10. The lease is dropped, then the row released. Removed: the other way round.
    DropThenRelease,
    /// 10. After it has dropped its lease to leave, a process takes no new one.
    NoLeaseAfterLeaving,
    /// 10. A silent row is deleted by compare-and-delete on its counter.
    CompareAndDelete,
    /// 10. The counter never comes back to a value that it had. Removed: a row that was deleted and is
    /// registered again counts from 1.
    CounterNeverRepeats,
    /// 10. Who sweeps silent rows has waited on its own monotonic clock. Removed: rows are judged by
    /// the server's wall clock, which can be stepped.
    SweepByOwnClock,
    /// Commit. A commit names the epoch that its records were read in. Removed: the one that its
    /// process is in by then.
    CommitNamesEpoch,
    /// Settled. The mark names the epoch that it is about.
    MarkNamesEpoch,
    /// Settled. A member marks an epoch L after it first saw it. Removed: at first sight.
    MarkAfterLease,
    /// Embedded. The commit first, then the cache is invalidated, then OK. Removed: the cache first.
    CommitThenInvalidate,
}
