//! When the certificate is renewed: at half of its life, give or take; sooner where the hub asks for it; again and again where that
//! fails. Pure: time and chance are parameters, and `renew` does what is said here. A fleet's renewals reach the hub spread over time, and
//! whether they do is decided here and in `berth_common::tls::renewal` alone.

use std::time::{Duration, SystemTime};

use berth_common::{identity::CertificateFacts, tls::renewal};

/// The hub cannot have a renewal put off for longer.
const MOST_SPREAD: Duration = Duration::from_secs(3_600);

/// What is remembered between two looks at the clock.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    failures: u32,
    /// How often the hub has asked for a renewal, and when the one that it has asked for last is due.
    asked: (u64, Option<SystemTime>),
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The certificate has ended.
    Over,
    /// It is renewed after this, unless the hub asks for it before.
    Wait(Duration),
    /// It is to be renewed.
    Renew,
}

/// A renewal has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// When to try again.
    pub wait: Duration,
    /// The last one had not.
    pub first: bool,
}

impl Pace {
    /// What to do with this certificate now.
    pub fn step(&self, leaf: &CertificateFacts, now: SystemTime) -> Step {
        if now > leaf.not_after {
            return Step::Over;
        }
        let due = renewal::due(leaf).min(self.asked.1.unwrap_or(leaf.not_after));
        match due.duration_since(now) {
            Ok(until) if !until.is_zero() => Step::Wait(until),
            _ => Step::Renew,
        }
    }

    /// The hub has asked so often by now, the last time for a renewal within this. `lot` is random, from 0 to 1. Returns whether that
    /// is news.
    pub fn heard(&mut self, count: u64, within: Duration, now: SystemTime, lot: f64) -> bool {
        let news = count > self.asked.0;
        if news {
            let wait = within.min(MOST_SPREAD).mul_f64(lot.clamp(0.0, 1.0));
            self.asked = (count, Some(now + wait));
        }
        news
    }

    /// How often the hub has asked.
    pub fn asked(&self) -> u64 {
        self.asked.0
    }

    /// Whether it has, and was not answered yet.
    pub fn is_asked(&self) -> bool {
        self.asked.1.is_some()
    }

    /// There is another certificate. Returns whether that was after trouble.
    pub fn renewed(&mut self) -> bool {
        self.asked.1 = None;
        self.back()
    }

    /// There is none, and the one in use is good for so much longer. `lot` is random, from 0 to 1.
    pub fn failed(&mut self, left: Duration, lot: f64) -> Failed {
        let wait = renewal::retry(self.failures, left, lot);
        let first = self.failures == 0;
        self.failures = self.failures.saturating_add(1);
        Failed { wait, first }
    }

    /// There is one again that was not renewed but obtained. Returns whether there was trouble.
    pub fn back(&mut self) -> bool {
        std::mem::take(&mut self.failures) > 0
    }
}
