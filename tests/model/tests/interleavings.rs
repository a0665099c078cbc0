//! The cache under a scheduler that tries interleavings: loads against changes against new generations.
//!
//! What is claimed, whatever the order of the steps: a check that begins after a change was answered does
//! not see what was before it.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use keyclasp_model::memory::cache::{Cache, Landing, Load, Weigh};
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::{future, thread};

/// How many schedules are tried.
const CI: usize = 20_000;
const TORTURE: usize = 1_000_000;

/// The version of the record that a check saw.
#[derive(Debug)]
struct Version(u64);

impl Weigh for Version {
    fn weight(&self) -> u64 {
        1
    }
}

/// One record in a store with several histories, and the cache in front of it.
struct World {
    cache: Cache<u8, Version, ()>,
    /// The version of the record in each history.
    histories: [AtomicU64; 2],
    /// Which history counts. It is known by the generation that began after it was set.
    history: AtomicU64,
    /// The newest version that was answered to who changed it.
    answered: AtomicU64,
}

const KEY: u8 = 7;

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            cache: Cache::new(1 << 10, 8, 1),
            histories: [AtomicU64::new(1), AtomicU64::new(1)],
            history: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        })
    }

    /// What `Fence::find` does.
    fn check(&self) -> u64 {
        loop {
            // The lease says in which history to read; both are noted together.
            let generation = self.cache.generation(0);
            let history = self.history.load(Ordering::SeqCst);
            if self.cache.generation(0) != generation {
                continue;
            }
            if let Some(found) = self.cache.hit(0, generation, &KEY) {
                return found.0;
            }
            match self.cache.load(0, generation, KEY) {
                Load::Own(own) => {
                    let read = self.histories[history as usize].load(Ordering::SeqCst);
                    return own.done(Version(read)).0;
                }
                Load::Joined(joined) => match future::block_on(joined) {
                    Landing::Value(found) => return found.0,
                    Landing::Absent | Landing::Failed(()) | Landing::GivenUp => {}
                },
            }
        }
    }

    /// A check, with what it must not be older than.
    fn checked(&self) {
        let answered = self.answered.load(Ordering::SeqCst);
        let seen = self.check();
        assert!(seen >= answered, "saw version {seen}, though {answered} had been answered before");
    }

    /// A check whose time is up before the load that it joined has ended.
    fn gives_up(&self) {
        if let Load::Joined(mut joined) = self.cache.load(0, self.cache.generation(0), KEY) {
            let polled = Pin::new(&mut joined).poll(&mut Context::from_waker(Waker::noop()));
            assert!(!matches!(polled, Poll::Ready(Landing::Failed(()))));
        }
    }

    /// A change in the history that counts, as the store's writer makes it.
    fn change(&self, version: u64) {
        let history = self.history.load(Ordering::SeqCst) as usize;
        self.histories[history].store(version, Ordering::SeqCst);
        self.cache.invalidate(&KEY);
        self.answered.store(version, Ordering::SeqCst);
    }

    /// Another history begins, in which the record was changed; that is answered when this process has
    /// taken it up.
    fn turn(&self, version: u64) {
        self.histories[1].store(version, Ordering::SeqCst);
        self.history.store(1, Ordering::SeqCst);
        self.cache.renew(0);
        self.answered.store(version, Ordering::SeqCst);
    }
}

fn schedules() -> usize {
    if std::env::var_os("KEYCLASP_TORTURE").is_some() { TORTURE } else { CI }
}

fn run(actors: impl Fn(&Arc<World>) -> Vec<Box<dyn FnOnce() + Send>> + Send + Sync + 'static) {
    let actors = Arc::new(actors);
    for schedule in 0..2 {
        let actors = Arc::clone(&actors);
        let body = move || {
            let world = World::new();
            let threads: Vec<_> = actors(&world).into_iter().map(thread::spawn).collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            // Whatever happened, the next one sees the last version.
            world.checked();
        };
        // Half of them at random, half with few changes of the thread that runs, which find other faults.
        match schedule {
            0 => shuttle::check_random(body, schedules() / 2),
            _ => shuttle::check_pct(body, schedules() / 2, 3),
        }
    }
}

fn actor(world: &Arc<World>, act: impl FnOnce(&World) + Send + 'static) -> Box<dyn FnOnce() + Send> {
    let world = Arc::clone(world);
    Box::new(move || act(&world))
}

#[test]
fn a_change_against_loads() {
    run(|world| {
        vec![
            actor(world, |world| world.change(2)),
            actor(world, |world| {
                world.checked();
                world.checked();
            }),
            actor(world, World::checked),
        ]
    });
}

#[test]
fn two_changes_against_loads() {
    run(|world| {
        vec![
            actor(world, |world| {
                world.change(2);
                world.change(3);
            }),
            actor(world, |world| {
                world.checked();
                world.checked();
            }),
            actor(world, |world| {
                world.checked();
                world.checked();
            }),
        ]
    });
}

#[test]
fn a_new_generation_against_loads() {
    run(|world| {
        vec![
            actor(world, |world| world.turn(2)),
            actor(world, |world| {
                world.checked();
                world.checked();
            }),
            actor(world, World::checked),
        ]
    });
}

#[test]
fn a_change_then_a_new_generation_against_loads() {
    run(|world| {
        vec![
            actor(world, |world| {
                world.change(2);
                world.turn(3);
                world.change(4);
            }),
            actor(world, |world| {
                world.checked();
                world.checked();
            }),
            actor(world, World::checked),
        ]
    });
}

/// Who waits on is woken, whoever else gives up waiting, and when: else the schedule would end in a deadlock.
#[test]
fn impatient_checks_against_loads() {
    run(|world| {
        vec![
            actor(world, |world| world.change(2)),
            actor(world, World::checked),
            actor(world, World::checked),
            actor(world, |world| {
                world.gives_up();
                world.gives_up();
            }),
        ]
    });
}
