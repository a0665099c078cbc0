//! That the nemesis steps what it means to step.

use std::time::Duration;

use keyclasp::clock::{Clock as _, SystemClock};
use serde_json::json;

use super::cluster::WallClock;
use crate::support::eventually;
use crate::support::json::call;
use crate::support::server::Keyclasp;

#[test]
fn a_process_can_be_given_another_wall_clock() {
    let (setup, clock) = WallClock::of(Keyclasp::set_up());
    let server = setup.start();
    let here = SystemClock::new();
    let off_by = || {
        let (_, status) = call(server.listen(), &server.token(), "AdminService/GetStatus", &json!({}));
        let there = status["now"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond();
        there - i64::try_from(here.now().as_millis()).unwrap()
    };
    for seconds in [3600, -3600, 0] {
        clock.step(seconds);
        let near = || ((off_by() - seconds * 1000).abs() < 60_000).then_some(());
        assert!(eventually(Duration::from_secs(30), near).is_some(), "{seconds:+} s: off by {} ms", off_by());
    }
}
