//! Redis as the model sees it: one shard on one or two nodes, replication with a lag, the disk of a
//! primary that can restart in place, and the fence in front of every script (rule 1).
//!
//! Nothing in here knows of leases, caches or calls.

use crate::rules::Rule;
use crate::state::{Epoch, MAX_LAG, NO_EPOCH};

/// The data of the shard on one node.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub struct Data {
    /// The shard's incarnation: what an epoch is called by.
    pub incarnation: Incarnation,
    /// The one key that the model is about.
    pub record: Record,
    /// Its version. Counted only in the scenario in which somebody writes by it; 0 otherwise.
    pub version: u8,
    /// How many positions of the log there are.
    pub tail: u8,
    /// Which of them (bit 0 is position 1) are entries of the key; the others are of other keys.
    pub ours: u8,
    /// How many of the oldest entries are trimmed away.
    pub trimmed: u8,
    /// The lease table: a row for each identity.
    pub members: [Member; 2],
    /// The epoch that a member has marked as settled (a change that is intended).
    pub settled: Epoch,
}

/// Whose incarnation this is, and its number: a stand-in for 16 random bytes, so never used twice.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub struct Incarnation {
    /// The replid of the node that wrote it.
    pub replid: u8,
    /// [`NO_EPOCH`] where there is none.
    pub number: Epoch,
}

/// The stored key.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub enum Record {
    /// There is none, which denies.
    Absent,
    /// Valid.
    Live,
    /// Revoked.
    Revoked,
}

/// A row of the lease table.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Whether the row is there.
    pub registered: bool,
    /// The counter that a heartbeat bumps. Counted only in scenarios in which somebody deletes rows.
    pub counter: u8,
    /// The position that it has acknowledged.
    pub applied: u8,
}

/// What a script wrote, as it travels to the other node.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub enum Write {
    /// Something whose effect no longer matters; it still takes its place in the stream.
    Nothing,
    /// A heartbeat of an identity, with the counter that it has from now on.
    Beat(u8, u8),
    /// An acknowledgement: identity, position.
    Ack(u8, u8),
    /// A row of the lease table goes.
    Forget(u8),
    /// The key's record, as of now, and a log entry with it.
    Key(Record, u8),
    /// An entry for another key.
    Other,
    /// A heartbeat's incarnation.
    Incarnate(Incarnation),
    /// A mark that an epoch is settled.
    Settle(Epoch),
}

impl Data {
    /// A shard with nothing in it: what FLUSHALL leaves.
    pub const EMPTY: Data = Data {
        incarnation: Incarnation { replid: 0, number: NO_EPOCH },
        record: Record::Absent,
        version: 0,
        tail: 0,
        ours: 0,
        trimmed: 0,
        members: [Member { registered: false, counter: 0, applied: 0 }; 2],
        settled: NO_EPOCH,
    };

    /// Takes in one write, on a primary as on a replica.
    pub fn apply(&mut self, write: Write) {
        match write {
            Write::Nothing => {}
            Write::Beat(id, counter) => {
                let row = &mut self.members[usize::from(id)];
                *row = Member { registered: true, counter, applied: row.applied };
            }
            Write::Ack(id, position) => {
                let row = &mut self.members[usize::from(id)];
                row.applied = row.applied.max(position);
            }
            Write::Forget(id) => self.members[usize::from(id)] = Member::default(),
            Write::Key(record, version) => {
                (self.record, self.version) = (record, version);
                self.ours |= 1 << self.tail;
                self.tail += 1;
            }
            Write::Other => self.tail += 1,
            Write::Incarnate(incarnation) => self.incarnation = incarnation,
            Write::Settle(epoch) => self.settled = epoch,
        }
    }
}

/// One server.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub struct Node {
    /// What it takes itself for. After a failover there are two primaries until the old one rejoins.
    pub primary: bool,
    /// Its `master_replid`; a replica has its primary's.
    pub replid: u8,
    /// What is in its memory.
    pub data: Data,
    /// What is on its disk, where the scenario has restarts in place.
    pub disk: Option<Data>,
}

/// The servers and what lies between them.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub struct Redis {
    /// The second one is unused in a standalone scenario.
    pub nodes: [Node; 2],
    /// Who replicates from whom: (primary, replica). There is at most one such link. The replica may be
    /// [`THIRD`].
    pub link: Option<(u8, u8)>,
    /// What the replica on the link has not taken in yet, oldest first.
    pub lag: [Write; MAX_LAG],
    /// How many of `lag` there are.
    pub lagging: u8,
    /// The last replid that was given out.
    pub replids: u8,
    /// The last incarnation that was written.
    pub incarnations: Epoch,
}

/// How far a script is from having been confirmed by `WAIT 1`: so many writes have to reach the
/// replica first. 0: confirmed.
pub type Behind = u8;

/// The second replica of a primary that has two. Until the failover it is left out: the more advanced of
/// both is promoted, so node 1 stands for whichever that is, and has what either confirmed. After it, the
/// other one follows node 1 and confirms for it; it is never read or promoted, so it has no data here.
pub const THIRD: u8 = 2;

/// There is no replica that could confirm it. One that copies the whole primary still can.
pub const NO_REPLICA: Behind = u8::MAX;

impl Redis {
    /// Node 0 is the primary; node 1 follows it if there is one. The key is there, or yet to be created.
    pub fn new(with_replica: bool, with_disk: bool, record: Record) -> Redis {
        let mut data = Data::EMPTY;
        data.record = record;
        data.incarnation = Incarnation { replid: 1, number: 1 };
        let primary = Node { primary: true, replid: 1, data, disk: with_disk.then_some(data) };
        let second = Node { primary: false, replid: 1, data, disk: None };
        let unused = Node { primary: false, replid: 0, data: Data::EMPTY, disk: None };
        Redis {
            nodes: [primary, if with_replica { second } else { unused }],
            link: with_replica.then_some((0, 1)),
            lag: [Write::Nothing; MAX_LAG],
            lagging: 0,
            replids: 1,
            incarnations: 1,
        }
    }

    /// A node by its number.
    pub fn node(&self, node: u8) -> &Node {
        &self.nodes[usize::from(node)]
    }

    /// A node by its number, to change it.
    pub fn node_mut(&mut self, node: u8) -> &mut Node {
        &mut self.nodes[usize::from(node)]
    }

    /// The fence in front of every script but the heartbeat (rule 1): the epoch it would run in on
    /// this node, or none where it is refused.
    pub fn epoch(&self, node: u8, without: Option<Rule>) -> Option<Epoch> {
        self.node(node).primary.then(|| self.epoch_of_any_role(node, without)).flatten()
    }

    /// The fence without its check of the role.
    pub fn epoch_of_any_role(&self, node: u8, without: Option<Rule>) -> Option<Epoch> {
        let Node { replid, data: Data { incarnation, .. }, .. } = *self.node(node);
        let own = incarnation.replid == replid || without == Some(Rule::ScriptsRefuseWhileNotOwn);
        match without {
            Some(Rule::Incarnation) => Some(replid),
            _ => (own && incarnation.number != NO_EPOCH).then_some(incarnation.number),
        }
    }

    /// What the heartbeat has in place of the fence: where the incarnation is absent or names another
    /// replid than the node's own, it writes one. None from a node that is no primary.
    pub fn epoch_for_beat(&mut self, node: u8, without: Option<Rule>) -> Option<Epoch> {
        let Node { primary, replid, .. } = *self.node(node);
        if primary && self.epoch(node, without).is_none() {
            self.incarnations += 1;
            self.write(node, Write::Incarnate(Incarnation { replid, number: self.incarnations }));
        }
        self.epoch(node, without)
    }

    /// A new history begins at this node: a replid that was never there. Where the scenario leaves the
    /// incarnation out, it is there at once.
    pub fn new_replid(&mut self, node: u8, incarnation_at_once: bool) {
        self.replids += 1;
        let replid = self.replids;
        if incarnation_at_once {
            self.incarnations += 1;
            self.node_mut(node).data.incarnation = Incarnation { replid, number: self.incarnations };
        }
        self.node_mut(node).replid = replid;
    }

    /// Whether a script on this node finds room in the bounded lag for `writes` writes.
    pub fn room(&self, node: u8, writes: usize) -> bool {
        self.link.is_none_or(|(from, _)| from != node) || usize::from(self.lagging) + writes <= MAX_LAG
    }

    /// Writes on a primary; the replica on the link gets it later.
    pub fn write(&mut self, node: u8, write: Write) {
        self.node_mut(node).data.apply(write);
        if self.link.is_some_and(|(from, _)| from == node) {
            self.lag[usize::from(self.lagging)] = write;
            self.lagging += 1;
        }
    }

    /// What `WAIT 1` waits for, asked directly after a write on this node.
    pub fn behind(&self, node: u8) -> Behind {
        match self.link {
            Some((from, _)) if from == node => self.lagging,
            _ => NO_REPLICA,
        }
    }

    /// The oldest write reaches the replica.
    pub fn replicate(&mut self) {
        if let Some((_, to)) = self.link {
            if to != THIRD {
                let oldest = self.lag[0];
                self.node_mut(to).data.apply(oldest);
            }
            self.lag.rotate_left(1);
            self.lag[MAX_LAG - 1] = Write::Nothing;
            self.lagging -= 1;
        }
    }

    /// The link breaks; what was under way on it is lost.
    pub fn unlink(&mut self) {
        (self.link, self.lag, self.lagging) = (None, [Write::Nothing; MAX_LAG], 0);
    }
}
