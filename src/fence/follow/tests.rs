//! Following over a store that answers what a test wants, and takes the time that it wants.

use std::sync::{Arc, Mutex, OnceLock, Weak};

use async_trait::async_trait;

use super::*;
use crate::clock::{Clock, ManualClock, SystemClock, Timestamp};
use crate::fence::Weigh;
use crate::key::codec::IdempotencyEntry;
use crate::key::{KeyId, PepperId};
use crate::store::{
    AuditPage, AuditQuery, Commit, Done, Epoch, Found, Health, Identity, ListPage, ListQuery, LogCursor, LogEntry,
    LogPage, Outcome, ScanCursor, ScanPage, Store,
};

const EPOCH: Epoch = Epoch([1; 32]);
const TERM: Duration = Duration::from_secs(80);
const ME: MemberId = MemberId([1; 16]);
/// Longest that a test may take.
const BOUND: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Kept;

impl Weigh for Kept {
    fn weight(&self) -> u64 {
        1
    }
}

impl Hold for Kept {
    fn of(_: Found) -> Self {
        Self
    }

    fn is_gone(&self, _: Timestamp) -> bool {
        false
    }
}

/// What the store answers, and what it was asked.
#[derive(Default)]
struct Script {
    beats_fail: bool,
    logs_fail: bool,
    /// How far the log is ahead of who reads it, until so many pages have been read.
    ahead: u64,
    pages: u64,
    tail: u64,
    others: Vec<Member>,
    /// When beats that can grant a lease were asked for, and pages of the log.
    beats: Vec<Duration>,
    reads: Vec<Duration>,
    /// Whether the lease was held after each page and each removal.
    held: Vec<bool>,
}

struct Fake {
    clock: Arc<dyn Clock>,
    /// What a page of the log, and what a removal takes on this clock.
    slow: Option<(Arc<ManualClock>, Duration)>,
    script: Mutex<Script>,
    fence: OnceLock<Weak<Fence<Kept>>>,
}

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fake")
    }
}

impl Fake {
    fn start(script: Script, slow: Option<(Arc<ManualClock>, Duration)>) -> (Arc<Self>, Arc<Fence<Kept>>) {
        let clock: Arc<dyn Clock> = match &slow {
            Some((clock, _)) => Arc::clone(clock) as Arc<dyn Clock>,
            None => Arc::new(SystemClock::new()),
        };
        let fake = Self { clock: Arc::clone(&clock), slow, script: Mutex::new(script), fence: OnceLock::new() };
        let fake = Arc::new(fake);
        let member = crate::fence::Member { id: ME, clock };
        let fence = Arc::new(Fence::new(Arc::clone(&fake) as Arc<dyn Store>, 1 << 20, member));
        fake.fence.set(Arc::downgrade(&fence)).unwrap();
        (fake, fence)
    }

    fn script<T>(&self, of: impl FnOnce(&mut Script) -> T) -> T {
        of(&mut self.script.lock().unwrap())
    }

    fn take_time(&self) {
        if let Some((clock, span)) = &self.slow {
            clock.advance(*span);
            let held = self.fence.get().and_then(Weak::upgrade).unwrap().holds_all();
            self.script(|it| it.held.push(held));
        }
    }

    fn beaten(&self) -> Beaten {
        self.script(|it| Beaten { epoch: EPOCH, tail: it.tail, settled: true, members: it.others.clone() })
    }
}

fn fails<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("it fails".to_owned()))
}

#[async_trait]
impl Leases for Fake {
    fn term(&self) -> Duration {
        TERM
    }

    async fn beat(&self, _: u16, beat: &Beat) -> Result<Beaten, StoreError> {
        let (now, beaten) = (self.clock.elapsed(), self.beaten());
        self.script(|it| {
            if !beat.confirmed {
                return Ok(beaten);
            }
            it.beats.push(now);
            // From the first one on, there is something to read.
            it.tail = it.tail.max(it.ahead);
            if it.beats_fail { fails() } else { Ok(beaten) }
        })
    }

    async fn members(&self, _: u16) -> Result<Beaten, StoreError> {
        Ok(self.beaten())
    }

    async fn remove(&self, _: u16, _: Epoch, member: &Member) -> Result<bool, StoreError> {
        self.take_time();
        self.script(|it| it.others.retain(|other| other != member));
        Ok(true)
    }

    async fn release(&self, _: u16, _: MemberId) -> Result<(), StoreError> {
        Ok(())
    }

    async fn settle(&self, _: u16, _: Epoch) -> Result<(), StoreError> {
        Ok(())
    }

    async fn barrier(&self, _: u16) -> Result<Done, StoreError> {
        fails()
    }

    async fn wake(&self, after: &[(u16, u64)], limit: Duration) -> Result<Vec<(u16, u64)>, StoreError> {
        let tail = self.script(|it| it.tail);
        if after.iter().all(|(_, position)| *position >= tail) {
            tokio::time::sleep(limit).await;
            return Ok(Vec::new());
        }
        Ok(after.iter().map(|(shard, _)| (*shard, tail)).collect())
    }
}

#[async_trait]
impl Store for Fake {
    async fn log(&self, _: u16, after: Option<LogCursor>, limit: usize) -> Result<LogPage, StoreError> {
        self.take_time();
        let now = self.clock.elapsed();
        self.script(|it| {
            it.reads.push(now);
            if it.logs_fail {
                return fails();
            }
            let (after, limit) = (after.unwrap().position, u64::try_from(limit).unwrap());
            let last = it.tail.min(after + limit);
            if it.pages > 0 {
                it.pages -= 1;
                it.tail = it.tail.max(last + it.ahead);
            }
            let entry = |position| LogEntry { position, id: KeyId::new(0, [7; 15]), version: 1 };
            Ok(LogPage { epoch: EPOCH, tail: it.tail, gap: false, entries: (after + 1..=last).map(entry).collect() })
        })
    }

    fn leases(&self) -> Option<&dyn Leases> {
        Some(self)
    }

    fn shards(&self) -> u16 {
        1
    }

    fn identity(&self) -> Identity {
        Identity { kind: "fake", location: String::new() }
    }

    async fn get(&self, _: KeyId, _: Timestamp) -> Result<Option<Found>, StoreError> {
        fails()
    }

    async fn commit(&self, _: &Commit, _: Timestamp) -> Result<Outcome, StoreError> {
        fails()
    }

    async fn idempotency(&self, _: u8, _: [u8; 32], _: Timestamp) -> Result<Option<IdempotencyEntry>, StoreError> {
        fails()
    }

    async fn list(&self, _: &ListQuery, _: Timestamp) -> Result<ListPage, StoreError> {
        fails()
    }

    async fn audit(&self, _: &AuditQuery) -> Result<AuditPage, StoreError> {
        fails()
    }

    async fn scan(&self, _: Option<ScanCursor>, _: Timestamp) -> Result<ScanPage, StoreError> {
        fails()
    }

    async fn pepper_checks(&self) -> Result<Vec<(PepperId, [u8; 32])>, StoreError> {
        fails()
    }

    async fn add_pepper_check(&self, _: &PepperId, _: [u8; 32]) -> Result<[u8; 32], StoreError> {
        fails()
    }

    async fn remove_pepper_check(&self, _: &PepperId) -> Result<(), StoreError> {
        fails()
    }

    async fn health(&self, _: Timestamp) -> Result<Health, StoreError> {
        fails()
    }
}

/// Follows until `is_enough`, which is asked again and again.
async fn follow(fence: &Fence<Kept>, mut is_enough: impl FnMut() -> bool) {
    let enough = async {
        while !is_enough() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = fence.follow() => panic!("nobody has left"),
        done = tokio::time::timeout(BOUND, enough) => done.expect("it never came to be"),
    }
}

/// Whether no two of `times` are closer to each other than a pause.
fn apart(times: &[Duration]) -> bool {
    times.windows(2).all(|two| two[1] - two[0] >= RETRY)
}

/// However many calls ask for a lease meanwhile.
#[tokio::test]
async fn beats_that_fail_are_not_sent_again_without_a_pause() {
    let (fake, fence) = Fake::start(Script { beats_fail: true, ..Script::default() }, None);
    let id = KeyId::new(0, [7; 15]);
    follow(&fence, || {
        assert!(fence.lease(0).is_err() && fence.held(id, Timestamp::default()).is_none());
        fake.script(|it| it.beats.len() == 4)
    })
    .await;
    fake.script(|it| assert!(apart(&it.beats), "{:?}", it.beats));
    assert_eq!(fence.standings()[0].trouble, fails::<()>().err());
}

#[tokio::test]
async fn a_log_that_cannot_be_read_is_told_of_and_asked_for_with_pauses() {
    let (fake, fence) = Fake::start(Script { logs_fail: true, ahead: 3, ..Script::default() }, None);
    follow(&fence, || {
        // Those who hear of changes ask for beats.
        fence.beat_now();
        fake.script(|it| it.reads.len() == 4)
    })
    .await;
    fake.script(|it| assert!(apart(&it.reads), "{:?}", it.reads));
    let standing = &fence.standings()[0];
    assert_eq!((standing.lag, &standing.trouble), (3, &fails::<()>().err()));
    // It can be read again.
    fake.script(|it| it.logs_fail = false);
    follow(&fence, || fence.standings()[0].lag == 0).await;
    assert_eq!(fence.standings()[0].trouble, None);
}

/// A page takes an eighth of the term, and the log is always some pages ahead.
#[tokio::test]
async fn a_log_that_grows_as_fast_as_it_is_read_does_not_cost_the_lease() {
    let clock = Arc::new(ManualClock::new(Timestamp::default()));
    let script = Script { ahead: 3 * PAGE as u64, pages: 40, ..Script::default() };
    let (fake, fence) = Fake::start(script, Some((clock, TERM / 8)));
    follow(&fence, || fake.script(|it| it.pages == 0)).await;
    fake.script(|it| {
        assert!(it.held.iter().all(|held| *held), "{:?}", it.held);
        // Five of them in a term, a bit fewer as pages are read to their end.
        assert!(it.beats.len() >= 15, "{:?}", it.beats);
    });
}

/// A removal takes an eighth of the term.
#[tokio::test]
async fn many_silent_rows_do_not_cost_the_lease() {
    let clock = Arc::new(ManualClock::new(Timestamp::default()));
    let others = (2..18).map(|id| Member { id: MemberId([id; 16]), beat: 1, applied: 0 }).collect();
    let script = Script { others, ..Script::default() };
    let (fake, fence) = Fake::start(script, Some((Arc::clone(&clock), TERM / 8)));
    let mut beats = 0;
    follow(&fence, || {
        let (sent, left) = fake.script(|it| (it.beats.len(), it.others.len()));
        // Time passes from beat to beat, until they have been silent for long enough.
        if sent > beats && left == 16 {
            clock.advance(TERM / BEATS);
            fence.beat_now();
        }
        beats = sent;
        left == 0
    })
    .await;
    fake.script(|it| assert_eq!(it.held, [true; 16]));
}
