//! When all connections are left for new ones: because an answer told that the node behind them is not, or
//! not any more, the one that the address should lead to. Knows nothing of connections but when they were
//! made, and reads no clock.

use std::time::Duration;

/// Pause after all were left; it doubles while that does not help.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// When nothing was wrong for so long, what is wrong then is something new.
const CALM: Duration = Duration::from_secs(1);

/// When a connection was made: since all were left for so many a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Generation(u64);

/// The generation that connections are made in now.
#[derive(Debug, Default)]
pub(super) struct Generations {
    present: Generation,
    /// The pause that ends at `not_before`.
    pause: Duration,
    not_before: Duration,
}

impl Generations {
    /// The one of a connection that is begun now. To be asked before it is begun: where the address leads may
    /// change while it is made.
    pub(super) const fn present(&self) -> Generation {
        self.present
    }

    /// A connection of `made` leads to the wrong node. Answers whether all that there are have to be left now:
    /// not if that has been done since, and not again and again without a pause, for the address itself may
    /// lead to such a node.
    pub(super) fn suspect(&mut self, made: Generation, now: Duration) -> bool {
        if made != self.present || now < self.not_before {
            return false;
        }
        let calm = now >= self.not_before.saturating_add(CALM);
        self.pause = if calm { FIRST_PAUSE } else { (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE) };
        self.not_before = now.saturating_add(self.pause);
        self.end();
        true
    }

    /// Nothing that there is counts as of the present one any more.
    pub(super) const fn end(&mut self) {
        self.present = Generation(self.present.0 + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn all_are_left_once_however_many_of_them_lead_to_the_wrong_node() {
        let mut generations = Generations::default();
        let first = generations.present();
        assert!(generations.suspect(first, at(0)));
        assert_ne!(generations.present(), first);
        assert!(!generations.suspect(first, at(0)) && !generations.suspect(first, at(60_000)));
        let second = generations.present();
        generations.end();
        assert!(!generations.suspect(second, at(60_000)));
    }

    #[test]
    fn what_the_address_leads_to_is_tried_after_growing_pauses_and_at_once_after_a_calm() {
        let mut generations = Generations::default();
        let mut left = Vec::new();
        for now in (0..1000).chain(3000..3030) {
            if generations.suspect(generations.present(), at(now)) {
                left.push(now);
            }
        }
        assert_eq!(left, [0, 25, 75, 175, 375, 625, 875, 3000, 3025]);
    }
}
