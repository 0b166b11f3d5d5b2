//! How fast.

use std::collections::VecDeque;

use super::SECOND;

/// The stretch in which attempts are counted.
const STRETCH: i64 = 60 * SECOND;

/// At most so many attempts in any 60 s.
pub(super) struct Rate {
    most: usize,
    /// Times of the attempts of the last 60 s, at most `most`.
    sent: VecDeque<i64>,
}

impl Rate {
    pub(super) fn new(per_minute: u32) -> Self {
        Self {
            most: per_minute.max(1) as usize,
            sent: VecDeque::new(),
        }
    }

    /// When the next attempt may be made.
    pub(super) fn free_at(&mut self, now: i64) -> i64 {
        while self.sent.front().is_some_and(|at| *at <= now - STRETCH) {
            self.sent.pop_front();
        }
        match self.sent.front() {
            Some(first) if self.sent.len() >= self.most => first + STRETCH,
            _ => now,
        }
    }

    /// Notes an attempt.
    pub(super) fn note(&mut self, now: i64) {
        if self.sent.len() >= self.most {
            self.sent.pop_front();
        }
        self.sent.push_back(now);
    }
}

/// Wait before the next try, microseconds: 1, 2, 4 … 30 s, or 5 minutes if it is `slow`; never less than the
/// receiver asked for. The jitter (up to a fifth) comes from the clock's last digits: enough to spread retries.
pub(super) fn backoff(attempts: u32, slow: bool, retry_after: Option<i64>, now: i64) -> i64 {
    let base = match slow {
        true => 300 * SECOND,
        false => (SECOND << attempts.min(6).saturating_sub(1)).min(30 * SECOND),
    };
    let jitter = base / 5 * now.rem_euclid(1000) / 1000;
    (base + jitter).max(retry_after.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_never_has_more_than_its_share() {
        let mut rate = Rate::new(3);
        let mut sent: Vec<i64> = Vec::new();
        let mut now = 0;
        while sent.len() < 20 {
            now += 7 * SECOND;
            now = now.max(rate.free_at(now));
            assert_eq!(rate.free_at(now), now);
            rate.note(now);
            sent.push(now);
        }
        assert!(sent.windows(4).all(|w| w[3] - w[0] >= STRETCH), "{sent:?}");
    }

    #[test]
    fn waits_grow_to_half_a_minute_and_then_to_five() {
        let waits: Vec<i64> = (1..9)
            .map(|n| backoff(n, false, None, 0) / SECOND)
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(backoff(u32::MAX, true, None, 0), 300 * SECOND);
        assert_eq!(backoff(1, false, Some(7 * SECOND), 0), 7 * SECOND);
        let most = backoff(1, false, None, 999);
        assert!(most > SECOND && most <= SECOND * 6 / 5);
    }
}
