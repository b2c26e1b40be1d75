//! How long a certificate is good for, judged and said in words: the same sentence in logs, in `cert show`, after
//! `cert issue` and in both doctors. Pure: the time is a parameter.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use time::OffsetDateTime;

use crate::identity::{CertificateFacts, PeerCertificate};

/// The span in which a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
}

/// What a [`Validity`] means at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It begins only later: most often a clock is wrong.
    NotYetValid {
        /// Until it begins.
        starts_in: Duration,
    },
    /// At least a third of its life is left.
    Good {
        /// Until it ends.
        left: Duration,
    },
    /// Less than a third of its life is left: it should have been renewed.
    Ageing {
        /// Until it ends.
        left: Duration,
    },
    /// It is over.
    Expired {
        /// Since it ended.
        ago: Duration,
    },
}

impl Validity {
    /// The whole life.
    pub fn lifetime(&self) -> Duration {
        self.not_after
            .duration_since(self.not_before)
            .unwrap_or_default()
    }

    /// What is left at `now`; zero once expired.
    pub fn left(&self, now: SystemTime) -> Duration {
        self.not_after.duration_since(now).unwrap_or_default()
    }

    /// The judgement at `now`. The last second of `not_after` is still valid, as in RFC 5280.
    pub fn health(&self, now: SystemTime) -> Health {
        if let Ok(ago) = now.duration_since(self.not_after)
            && !ago.is_zero()
        {
            return Health::Expired { ago };
        }
        if let Ok(starts_in) = self.not_before.duration_since(now)
            && !starts_in.is_zero()
        {
            return Health::NotYetValid { starts_in };
        }
        let left = self.left(now);
        if left < self.lifetime() / 3 {
            Health::Ageing { left }
        } else {
            Health::Good { left }
        }
    }
}

impl From<&CertificateFacts> for Validity {
    fn from(facts: &CertificateFacts) -> Self {
        Self {
            not_before: facts.not_before,
            not_after: facts.not_after,
        }
    }
}

impl From<&PeerCertificate> for Validity {
    fn from(certificate: &PeerCertificate) -> Self {
        Self {
            not_before: certificate.not_before,
            not_after: certificate.not_after,
        }
    }
}

impl Health {
    /// Whether a handshake would accept it.
    pub fn is_valid(&self) -> bool {
        matches!(self, Self::Good { .. } | Self::Ageing { .. })
    }
}

/// `364 days 23 hours left`, `expired 3 days 2 hours ago`, …
impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYetValid { starts_in } => {
                write!(f, "not yet valid: starts in {}", in_words(*starts_in))
            }
            Self::Good { left } => write!(f, "{} left", in_words(*left)),
            Self::Ageing { left } => write!(
                f,
                "{} left, less than a third of its life: renew it",
                in_words(*left)
            ),
            Self::Expired { ago } => write!(f, "expired {} ago", in_words(*ago)),
        }
    }
}

/// A span in its two largest units: `1 year 3 days`, `23 hours 59 minutes`, `0 seconds`.
pub fn in_words(span: Duration) -> String {
    const UNITS: [(&str, u64); 5] = [
        ("year", 365 * 86_400),
        ("day", 86_400),
        ("hour", 3_600),
        ("minute", 60),
        ("second", 1),
    ];
    let seconds = span.as_secs();
    let plural = |count: u64, unit: &str| match count {
        1 => format!("1 {unit}"),
        _ => format!("{count} {unit}s"),
    };
    let Some(at) = UNITS.iter().position(|(_, size)| seconds >= *size) else {
        return plural(0, "second");
    };
    let (unit, size) = UNITS[at];
    let largest = plural(seconds / size, unit);
    let Some((unit, smaller)) = UNITS.get(at + 1) else {
        return largest;
    };
    match seconds % size / smaller {
        0 => largest,
        rest => format!("{largest} {}", plural(rest, unit)),
    }
}

/// `2026-11-23 05:49:00 UTC`.
pub fn format_time(time: SystemTime) -> String {
    let seconds = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |s| -s),
    };
    let Ok(time) = OffsetDateTime::from_unix_timestamp(seconds) else {
        return format!("{seconds} seconds after 1970");
    };
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02} UTC",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn words_use_two_units() {
        let words = |seconds| in_words(Duration::from_secs(seconds));
        assert_eq!(words(0), "0 seconds");
        assert_eq!(words(1), "1 second");
        assert_eq!(words(61), "1 minute 1 second");
        assert_eq!(words(3_600), "1 hour");
        assert_eq!(words(86_399), "23 hours 59 minutes");
        assert_eq!(words(365 * 86_400 + 2 * 86_400 + 5), "1 year 2 days");
    }

    #[test]
    fn health_changes_at_a_third_and_at_the_ends() {
        let validity = Validity {
            not_before: at(100),
            not_after: at(400),
        };
        let second = Duration::from_secs(1);
        let health = |seconds| validity.health(at(seconds));
        assert_eq!(health(99), Health::NotYetValid { starts_in: second });
        assert_eq!(health(100), Health::Good { left: 300 * second });
        assert_eq!(health(300), Health::Good { left: 100 * second });
        assert_eq!(health(301), Health::Ageing { left: 99 * second });
        assert_eq!(
            health(400),
            Health::Ageing {
                left: Duration::ZERO
            }
        );
        assert_eq!(health(401), Health::Expired { ago: second });
    }

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(format_time(at(0)), "1970-01-01 00:00:00 UTC");
        assert_eq!(format_time(at(1_795_413_000)), "2026-11-23 05:50:00 UTC");
    }
}
