//! What goes wrong in a run: faults of keyclasp replicas and of their ways to Redis, and faults of
//! Redis, at the same time. Each is healed again, and each kind has its turn before one comes again.
//!
//! A fault has to last for a while: that is the one thing that is waited for by sleeping.

use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;

use super::cluster::{Nodes, Replica, Shared};
use super::dice::Dice;
use super::history::Effect;
use crate::support::proxy::Link;

/// Faults of one replica of keyclasp, or of its way to Redis.
const OF_REPLICAS: [fn(&Shared, &mut Replica, &mut Dice); 8] =
    [freeze, kill, terminate, cut, fall_silent, answer_nobody, slow_down, step_clock];

/// Faults of a Redis that stands alone.
const OF_REDIS: [fn(&Shared, &mut Nodes, &mut Dice); 7] =
    [freeze_redis, kill_redis, pause_redis, forget_scripts, flush_all, fill_up, cut_all];

/// And of one that has a replica.
const OF_REPLICATION: [fn(&Shared, &mut Nodes, &mut Dice); 4] =
    [freeze_redis_replica, kill_redis_replica, fail_over_and_rejoin, fail_over_for_good];

/// Troubles some replicas of keyclasp, one at a time, until it is told to stop. All is well then.
pub(super) fn trouble_replicas(shared: &Arc<Shared>, replicas: &mut [Replica], mut dice: Dice) {
    let mut deck = Vec::new();
    while !shared.stopped() {
        let fault = deal(&mut deck, &OF_REPLICAS, &mut dice);
        let replica = dice.below(replicas.len());
        fault(shared, &mut replicas[replica], &mut dice);
        sleep(dice.millis(100, 700));
    }
}

/// Troubles Redis until it is told to stop. All is well then.
pub(super) fn trouble_redis(shared: &Arc<Shared>, nodes: &mut Nodes, mut dice: Dice) {
    let mut faults = OF_REDIS.to_vec();
    if nodes.replicated() {
        faults.extend(OF_REPLICATION);
    }
    let mut deck = Vec::new();
    while !shared.stopped() {
        deal(&mut deck, &faults, &mut dice)(shared, nodes, &mut dice);
        sleep(dice.millis(200, 800));
    }
    if nodes.replicated() {
        nodes.wait_in_step();
    }
}

/// The next fault of a deck that is shuffled anew when it is empty.
fn deal<T: Copy>(deck: &mut Vec<T>, faults: &[T], dice: &mut Dice) -> T {
    if deck.is_empty() {
        deck.extend_from_slice(faults);
        dice.shuffle(deck);
    }
    deck.pop().unwrap()
}

fn name(replica: &Replica) -> String {
    format!("replica {}", replica.index)
}

fn freeze(shared: &Shared, replica: &mut Replica, dice: &mut Dice) {
    shared.fault("replica frozen (SIGSTOP)", name(replica), Effect::None, || {
        replica.process().signal(Signal::STOP);
        sleep(dice.millis(50, 1500));
        replica.process().signal(Signal::CONT);
    });
}

fn kill(shared: &Shared, replica: &mut Replica, dice: &mut Dice) {
    shared.fault("replica killed (SIGKILL)", name(replica), Effect::None, || {
        replica.process().kill9();
        sleep(dice.millis(0, 500));
        replica.start_again(shared);
    });
}

fn terminate(shared: &Shared, replica: &mut Replica, _: &mut Dice) {
    shared.fault("replica restarted (SIGTERM)", name(replica), Effect::None, || {
        let status = replica.process().terminate();
        assert!(status.success(), "SIGTERM: {status}\n{}", replica.process().log());
        replica.start_again(shared);
    });
}

fn cut(shared: &Shared, replica: &mut Replica, _: &mut Dice) {
    shared.fault("connections to Redis cut", name(replica), Effect::None, || shared.proxies[replica.index].cut());
}

fn fall_silent(shared: &Shared, replica: &mut Replica, dice: &mut Dice) {
    hold_link(shared, "link to Redis silent", replica, dice, Link::Silent);
}

fn answer_nobody(shared: &Shared, replica: &mut Replica, dice: &mut Dice) {
    hold_link(shared, "answers of Redis held back", replica, dice, Link::Unanswered);
}

fn slow_down(shared: &Shared, replica: &mut Replica, dice: &mut Dice) {
    let slow = Link::Slow(dice.millis(5, 120));
    hold_link(shared, "link to Redis slow", replica, dice, slow);
}

/// What was held back arrives late, or never.
fn hold_link(shared: &Shared, fault: &'static str, replica: &Replica, dice: &mut Dice, link: Link) {
    let proxy = &shared.proxies[replica.index];
    shared.fault(fault, name(replica), Effect::None, || {
        proxy.set(link);
        sleep(dice.millis(100, 2000));
        if dice.chance(50) {
            proxy.cut();
        }
        proxy.set(Link::Open);
    });
}

fn step_clock(shared: &Shared, replica: &mut Replica, dice: &mut Dice) {
    let seconds = 1 + i64::try_from(dice.below(3600)).unwrap();
    let seconds = if dice.chance(50) { seconds } else { -seconds };
    shared.fault("wall clock stepped", format!("{}, {seconds:+} s", name(replica)), Effect::None, || {
        replica.wall_clock.step(seconds);
        // It looks at the time that it shall have once a second.
        sleep(dice.millis(1200, 2000));
        replica.wall_clock.step(0);
    });
}

fn freeze_redis(shared: &Shared, nodes: &mut Nodes, dice: &mut Dice) {
    shared.fault("Redis frozen (SIGSTOP)", "primary", Effect::None, || {
        nodes.primary().freeze();
        sleep(dice.millis(50, 2500));
        nodes.primary().thaw();
    });
}

fn kill_redis(shared: &Shared, nodes: &mut Nodes, dice: &mut Dice) {
    shared.fault("Redis killed (SIGKILL)", "primary", Effect::None, || {
        nodes.primary().kill();
        sleep(dice.millis(0, 700));
        let primary = nodes.primary;
        nodes.start_again(primary);
    });
}

fn pause_redis(shared: &Shared, nodes: &mut Nodes, dice: &mut Dice) {
    shared.fault("CLIENT PAUSE", "primary", Effect::None, || {
        nodes.primary().run(&["CLIENT", "PAUSE", "300", "ALL"]);
        sleep(dice.millis(300, 500));
    });
}

fn forget_scripts(shared: &Shared, nodes: &mut Nodes, _: &mut Dice) {
    shared.fault("SCRIPT FLUSH", "primary", Effect::None, || nodes.primary().run(&["SCRIPT", "FLUSH"]));
}

/// Every second time only: each ends all keys, and what else would have been found out with them.
fn flush_all(shared: &Shared, nodes: &mut Nodes, dice: &mut Dice) {
    if dice.chance(50) {
        shared.fault("FLUSHALL", "primary", Effect::Loses, || nodes.primary().run(&["FLUSHALL"]));
    }
}

fn fill_up(shared: &Shared, nodes: &mut Nodes, dice: &mut Dice) {
    shared.fault("Redis full (maxmemory)", "primary", Effect::None, || {
        nodes.primary().run(&["CONFIG", "SET", "maxmemory", "1mb"]);
        sleep(dice.millis(300, 1500));
        nodes.primary().run(&["CONFIG", "SET", "maxmemory", "0"]);
    });
}

fn cut_all(shared: &Shared, _: &mut Nodes, _: &mut Dice) {
    shared.fault("all connections to Redis cut", "all", Effect::None, || {
        shared.proxies.iter().for_each(|proxy| proxy.cut())
    });
}

/// Nothing can be confirmed meanwhile.
fn freeze_redis_replica(shared: &Shared, nodes: &mut Nodes, dice: &mut Dice) {
    shared.fault("replica of Redis frozen (SIGSTOP)", "replica", Effect::None, || {
        let replica = nodes.replica;
        nodes.server(replica).freeze();
        sleep(dice.millis(50, 1500));
        nodes.server(replica).thaw();
    });
}

fn kill_redis_replica(shared: &Shared, nodes: &mut Nodes, dice: &mut Dice) {
    shared.fault("replica of Redis killed (SIGKILL)", "replica", Effect::None, || {
        let replica = nodes.replica;
        nodes.server(replica).kill();
        sleep(dice.millis(0, 500));
        nodes.start_again(replica);
        nodes.follow(replica);
        nodes.wait_in_step();
    });
}

/// The replica is promoted; the old primary answers on for a while to whoever is connected to it, and
/// then becomes the replica.
fn fail_over_and_rejoin(shared: &Shared, nodes: &mut Nodes, dice: &mut Dice) {
    nodes.wait_in_step();
    shared.fault("failover, the old primary rejoins", "Redis", Effect::Forks, || {
        let old = nodes.primary;
        let frozen = freeze_some(nodes, dice);
        promote(shared, nodes, dice);
        sleep(dice.millis(0, 1500));
        if frozen {
            nodes.server(old).thaw();
            sleep(dice.millis(0, 500));
        }
        if dice.chance(30) {
            nodes.server(old).kill();
            nodes.start_again(old);
        }
        nodes.replica = old;
        nodes.follow(old);
        nodes.wait_in_step();
    });
}

/// The replica is promoted and gets a replica of its own, while the old primary answers on to whoever
/// is connected to it: what is changed at the new one is not known there. In the end it is killed.
fn fail_over_for_good(shared: &Shared, nodes: &mut Nodes, dice: &mut Dice) {
    nodes.wait_in_step();
    shared.fault("failover, the old primary answers on", "Redis", Effect::Forks, || {
        let (old, spare) = (nodes.primary, nodes.spare);
        let frozen = freeze_some(nodes, dice);
        promote(shared, nodes, dice);
        nodes.replica = spare;
        nodes.spare = old;
        nodes.follow(spare);
        nodes.wait_in_step();
        if frozen {
            sleep(dice.millis(0, 500));
            nodes.server(old).thaw();
        }
        sleep(dice.millis(500, 2500));
        nodes.server(old).kill();
        nodes.start_again(old);
    });
}

/// Failovers have a reason: sometimes the primary does not answer for a while, and then answers what it
/// was asked before.
fn freeze_some(nodes: &mut Nodes, dice: &mut Dice) -> bool {
    let frozen = dice.chance(40);
    if frozen {
        nodes.primary().freeze();
    }
    frozen
}

/// The replica becomes the primary; new connections lead there, one proxy after the other.
fn promote(shared: &Shared, nodes: &mut Nodes, dice: &mut Dice) {
    nodes.primary = nodes.replica;
    nodes.primary().run(&["REPLICAOF", "NO", "ONE"]);
    let port = nodes.primary().port();
    let mut proxies: Vec<_> = shared.proxies.iter().collect();
    dice.shuffle(&mut proxies);
    for proxy in proxies {
        proxy.point_at(port);
        if dice.chance(30) {
            proxy.cut();
        }
        sleep(Duration::from_millis(dice.next() % 100));
    }
}
