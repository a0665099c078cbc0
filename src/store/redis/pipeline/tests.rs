//! A connection against the other end of a pipe.

use futures_util::future::{join_all, poll_immediate};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::wire::KEPT;
use super::*;
use crate::clock::SystemClock;
use crate::store::redis::resp::write_command;

/// A connection, and the other end of it, through which `room` bytes fit at once.
fn pair(room: usize) -> (Connection, DuplexStream) {
    let (near, far) = duplex(room);
    (Connection::new(Box::new(near), Arc::new(SystemClock::new())), far)
}

fn command(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    write_command(&mut out, [text.as_bytes()].into_iter());
    out
}

const fn span() -> Span {
    Span { now: Duration::ZERO, ends: Duration::from_secs(60) }
}

async fn ask(connection: &Connection, text: &str) -> Result<Value, Failure> {
    connection.call(&command(text), span()).await
}

fn said(text: &str) -> Value {
    Value::SimpleString(text.to_owned())
}

/// Answers each command, of which it knows that they are `digits` long, with what it said.
async fn echo(mut far: DuplexStream, digits: usize, times: usize) -> DuplexStream {
    let mut bytes = vec![0; command(&"0".repeat(digits)).len()];
    for _ in 0..times {
        far.read_exact(&mut bytes).await.unwrap();
        let text = &bytes[bytes.len() - 2 - digits..];
        far.write_all(&[b"+", text].concat()).await.unwrap();
    }
    far
}

async fn poll_once<T>(future: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Option<T> {
    poll_immediate(future).await
}

#[tokio::test]
async fn each_gets_its_own_reply_through_a_narrow_wire() {
    for room in [1, 7, 64, 4096] {
        let (connection, far) = pair(room);
        let texts: Vec<String> = (0..500).map(|number| format!("{number:05}")).collect();
        let (answers, _far) =
            tokio::join!(join_all(texts.iter().map(|text| ask(&connection, text))), echo(far, 5, texts.len()));
        for (text, answer) in texts.iter().zip(answers) {
            assert_eq!(answer.unwrap(), said(text), "{room} bytes");
        }
    }
}

#[tokio::test]
async fn more_calls_than_there_is_room_for_wait_and_are_answered() {
    let (connection, far) = pair(1 << 20);
    let calls = 2 * PIPELINE + 10;
    let texts: Vec<String> = (0..calls).map(|number| format!("{number:05}")).collect();
    let mut all = Box::pin(join_all(texts.iter().map(|text| ask(&connection, text))));
    assert!(poll_once(all.as_mut()).await.is_none());
    assert_eq!(connection.handle.0.wire().calls.len(), PIPELINE);
    let (answers, _far) = tokio::join!(all, echo(far, 5, calls));
    assert!(answers.into_iter().zip(&texts).all(|(answer, text)| answer.unwrap() == said(text)));
    assert_eq!(connection.handle.0.room.available_permits(), PIPELINE);
    assert!(connection.handle.0.wire().calls.is_empty());
}

#[tokio::test]
async fn who_goes_away_leaves_the_others_their_replies() {
    let (connection, mut far) = pair(4096);
    let mut leaves = Box::pin(ask(&connection, "a"));
    let mut stays = Box::pin(ask(&connection, "b"));
    assert!(poll_once(leaves.as_mut()).await.is_none() && poll_once(stays.as_mut()).await.is_none());
    drop(leaves);
    far.write_all(b"+to a\r\n>1\r\n+push\r\n+to b\r\n").await.unwrap();
    assert_eq!(stays.await.unwrap(), said("to b"));
    assert_eq!(connection.handle.0.room.available_permits(), PIPELINE);
}

#[tokio::test]
async fn an_error_is_that_of_its_own_call() {
    let (connection, mut far) = pair(4096);
    let replies = async {
        let mut bytes = vec![0; 3 * command("a").len()];
        far.read_exact(&mut bytes).await.unwrap();
        far.write_all(b"-NOSCRIPT no\r\n*2\r\n:1\r\n-OOM full\r\n+c\r\n").await.unwrap();
    };
    let (a, b, c, ()) =
        tokio::join!(biased; ask(&connection, "a"), ask(&connection, "b"), ask(&connection, "c"), replies);
    assert!(matches!(a, Err(Failure::NoScript)), "{a:?}");
    assert!(matches!(b, Err(Failure::Full(_))), "{b:?}");
    assert_eq!(c.unwrap(), said("c"));
    assert!(connection.is_good(Duration::ZERO));
}

#[tokio::test]
async fn the_end_of_a_connection_ends_every_call_and_is_noticed_while_idle() {
    let (connection, far) = pair(4096);
    let calls = join_all((0..3).map(|_| ask(&connection, "a")));
    let (answers, ()) = tokio::join!(biased; calls, async { drop(far) });
    assert!(answers.iter().all(|answer| matches!(answer, Err(Failure::Broken(_)))), "{answers:?}");
    assert!(!connection.is_good(Duration::ZERO));
    assert!(matches!(ask(&connection, "b").await, Err(Failure::Broken(_))));
    assert_eq!(connection.handle.0.room.available_permits(), PIPELINE);

    let (connection, far) = pair(4096);
    drop(far);
    while connection.is_good(Duration::ZERO) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn replies_that_are_none_or_that_nobody_asked_for_end_the_connection() {
    for reply in [&b"HTTP/1.1 400 Bad Request\r\n"[..], b"$99999999999\r\n", b"+a\r\n+b\r\n"] {
        let (connection, mut far) = pair(4096);
        let (_, ()) = tokio::join!(biased; ask(&connection, "a"), async { far.write_all(reply).await.unwrap() });
        while connection.is_good(Duration::ZERO) {
            tokio::task::yield_now().await;
        }
        assert!(matches!(ask(&connection, "b").await, Err(Failure::Broken(_))));
    }
}

#[tokio::test]
async fn a_call_is_given_up_when_its_time_is_up_and_not_before() {
    let clock = Arc::new(SystemClock::new());
    let (near, mut far) = duplex(4096);
    let connection = Connection::new(Box::new(near), clock.clone());
    let call = |millis: u64| {
        let (connection, clock) = (connection.clone(), clock.clone());
        async move {
            let now = clock.elapsed();
            let ends = now + Duration::from_millis(millis);
            let answer = connection.call(&command("a"), Span { now, ends }).await;
            assert!(answer.is_ok() || clock.elapsed() >= ends, "too early");
            (answer, clock.elapsed())
        }
    };
    // The later one first: the timer is moved forward.
    let ((long, long_ended), (short, short_ended)) = tokio::join!(biased; call(60), call(20));
    assert!(matches!((long, short), (Err(Failure::TimedOut), Err(Failure::TimedOut))));
    assert!(short_ended < long_ended);
    assert!(!connection.is_good(clock.elapsed()), "it kept somebody waiting");

    // Their replies are still theirs.
    let reply = async { far.write_all(b"+late\r\n+late\r\n+c\r\n").await.unwrap() };
    let ((third, _), ()) = tokio::join!(biased; call(60_000), reply);
    assert_eq!(third.unwrap(), said("c"));
    // And no time left is no call at all.
    assert!(matches!(call(0).await.0, Err(Failure::TimedOut)));
    assert_eq!(connection.handle.0.room.available_permits(), PIPELINE);
}

#[tokio::test]
async fn a_connection_that_nobody_has_is_closed() {
    let (connection, mut far) = pair(4096);
    let other = connection.clone();
    drop(connection);
    let mut byte = [0];
    assert!(poll_once(Box::pin(far.read(&mut byte)).as_mut()).await.is_none());
    drop(other);
    assert_eq!(far.read(&mut byte).await.unwrap(), 0);
}

#[tokio::test]
async fn a_long_reply_comes_through_in_pieces_and_its_room_is_given_back() {
    let (connection, mut far) = pair(1000);
    let long = vec![b'x'; 3 * KEPT];
    let reply = async {
        far.write_all(format!("${}\r\n", long.len()).as_bytes()).await.unwrap();
        far.write_all(&long).await.unwrap();
        far.write_all(b"\r\n").await.unwrap();
    };
    let (answer, ()) = tokio::join!(biased; ask(&connection, "a"), reply);
    assert_eq!(answer.unwrap(), Value::BulkString(long.clone()));
    let (answer, ()) = tokio::join!(biased; ask(&connection, "b"), async { far.write_all(b"+b\r\n").await.unwrap() });
    assert_eq!(answer.unwrap(), said("b"));
    assert!(connection.handle.0.wire().buffer.len() <= KEPT);
}

/// However narrow the wire, and with more calls than there are places.
#[tokio::test]
async fn nothing_comes_between_a_pair_and_each_half_gets_its_own_reply() {
    for room in [1, 7, 64, 4096] {
        let (connection, mut far) = pair(room);
        let calls = PIPELINE;
        let mut all = Vec::new();
        for number in 0..calls {
            let connection = connection.clone();
            all.push(async move {
                let [alone, first, second] = ["s", "a", "b"].map(|part| format!("{number:05}{part}"));
                if number % 3 == 0 {
                    assert_eq!(ask(&connection, &alone).await.unwrap(), said(&alone));
                } else {
                    let both = [command(&first), command(&second)].concat();
                    let (one, other) = connection.call_pair(&both, span()).await.unwrap();
                    assert_eq!((one, other.unwrap()), (said(&first), said(&second)));
                }
            });
        }
        let commands = calls + calls - calls.div_ceil(3);
        let echo = async {
            let (mut bytes, mut heard) = (vec![0; command("00000s").len()], Vec::new());
            for _ in 0..commands {
                far.read_exact(&mut bytes).await.unwrap();
                let text = bytes[bytes.len() - 8..].to_vec();
                far.write_all(&[b"+", &text[..]].concat()).await.unwrap();
                heard.push(String::from_utf8(text).unwrap().trim_end().to_owned());
            }
            heard
        };
        let (_, heard) = tokio::join!(join_all(all), echo);
        for (at, text) in heard.iter().enumerate().filter(|(_, text)| text.ends_with('a')) {
            assert_eq!(heard[at + 1], text.replace('a', "b"), "{room} bytes");
        }
        assert_eq!(connection.handle.0.room.available_permits(), PIPELINE);
    }
}

#[tokio::test]
async fn a_pair_whose_first_half_fails_does_not_wait_for_the_second() {
    let (connection, mut far) = pair(4096);
    let both = [command("a"), command("b")].concat();
    let refused = async { far.write_all(b"-NOSCRIPT no\r\n").await.unwrap() };
    let (answer, ()) = tokio::join!(biased; connection.call_pair(&both, span()), refused);
    assert!(matches!(answer, Err(Failure::NoScript)), "{answer:?}");
    // The second reply is still taken off.
    let rest = async { far.write_all(b":0\r\n+c\r\n").await.unwrap() };
    let (answer, ()) = tokio::join!(biased; ask(&connection, "c"), rest);
    assert_eq!(answer.unwrap(), said("c"));
    assert_eq!(connection.handle.0.room.available_permits(), PIPELINE);
}

#[tokio::test]
async fn of_a_pair_the_second_half_may_time_out_alone() {
    let clock = Arc::new(SystemClock::new());
    let (near, mut far) = duplex(4096);
    let connection = Connection::new(Box::new(near), clock.clone());
    let now = clock.elapsed();
    let span = Span { now, ends: now + Duration::from_millis(50) };
    let both = [command("a"), command("b")].concat();
    let one = async { far.write_all(b"+a\r\n").await.unwrap() };
    let (answer, ()) = tokio::join!(biased; connection.call_pair(&both, span), one);
    let (first, second) = answer.unwrap();
    assert_eq!(first, said("a"));
    assert!(matches!(second, Err(Failure::TimedOut)), "{second:?}");
    // No time left: nothing is sent.
    let late = connection.call_pair(&both, Span { now: span.ends, ..span }).await;
    assert!(matches!(late, Err(Failure::TimedOut)), "{late:?}");
    far.write_all(b"+b\r\n").await.unwrap();
    assert_eq!(ask_and_reply(&connection, &mut far).await, said("c"));
}

async fn ask_and_reply(connection: &Connection, far: &mut DuplexStream) -> Value {
    let (answer, ()) = tokio::join!(biased; ask(connection, "c"), async { far.write_all(b"+c\r\n").await.unwrap() });
    answer.unwrap()
}

#[test]
fn a_runtime_that_ends_takes_its_connections_with_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (connection, _far) = runtime.block_on(async { pair(4096) });
    assert!(connection.is_good(Duration::ZERO));
    drop(runtime);
    assert!(!connection.is_good(Duration::ZERO));
}

#[test]
fn silence_is_counted_from_the_first_question_that_was_not_answered() {
    let life = Life::default();
    let second = Duration::from_secs(1);
    life.asked(10 * second);
    life.asked(11 * second);
    assert!(life.is_good(11 * second) && !life.is_good(12 * second));
    life.answered();
    assert!(life.is_good(100 * second));
}
