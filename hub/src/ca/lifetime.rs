//! How long a certificate or a token lives, as an operator writes it: `30m`, `24h`, `90d`, `1y`.

use std::{fmt, str::FromStr, time::Duration};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const YEAR: u64 = 365 * DAY;

/// Why a text is not a lifetime.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LifetimeError {
    /// Not a number and a unit.
    #[error("is not a lifetime; write a whole number and s, m, h, d or y, such as 24h, 90d or 1y")]
    Malformed,
    /// Shorter than a second, or longer than 100 years.
    #[error("is out of range; from 1s to 100y is allowed")]
    OutOfRange,
}

/// A lifetime from one second to a hundred years; a year has 365 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lifetime(Duration);

impl Lifetime {
    /// So many whole seconds, at least one.
    pub fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds.clamp(1, 100 * YEAR)))
    }

    /// So many days; for constants.
    pub(super) const fn days(days: u64) -> Self {
        Self(Duration::from_secs(days * DAY))
    }

    /// As a span.
    pub fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Lifetime {
    type Err = LifetimeError;

    fn from_str(text: &str) -> Result<Self, LifetimeError> {
        let (number, unit) = match text.char_indices().last() {
            Some((at, 's')) => (&text[..at], 1),
            Some((at, 'm')) => (&text[..at], MINUTE),
            Some((at, 'h')) => (&text[..at], HOUR),
            Some((at, 'd')) => (&text[..at], DAY),
            Some((at, 'y')) => (&text[..at], YEAR),
            _ => return Err(LifetimeError::Malformed),
        };
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(LifetimeError::Malformed);
        }
        let seconds = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(unit))
            .filter(|seconds| (1..=100 * YEAR).contains(seconds))
            .ok_or(LifetimeError::OutOfRange)?;
        Ok(Self(Duration::from_secs(seconds)))
    }
}

/// In the largest unit that divides it, so that it reads back as the same lifetime.
impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        for (unit, size) in [('y', YEAR), ('d', DAY), ('h', HOUR), ('m', MINUTE)] {
            if seconds.is_multiple_of(size) {
                return write!(f, "{}{unit}", seconds / size);
            }
        }
        write!(f, "{seconds}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_read_and_write_alike() {
        for text in [
            "1s", "90s", "1m", "90m", "24h", "25h", "90d", "1y", "10y", "100y",
        ] {
            let lifetime: Lifetime = text.parse().unwrap();
            assert_eq!(lifetime.to_string().parse::<Lifetime>(), Ok(lifetime));
        }
        assert_eq!("24h".parse::<Lifetime>().unwrap().to_string(), "1d");
        assert_eq!("365d".parse::<Lifetime>(), Ok(Lifetime::days(365)));
    }

    #[test]
    fn what_is_no_lifetime_is_refused() {
        use LifetimeError::{Malformed, OutOfRange};
        for (text, error) in [
            ("", Malformed),
            ("d", Malformed),
            ("1", Malformed),
            ("1w", Malformed),
            ("-1d", Malformed),
            ("+1d", Malformed),
            ("1.5h", Malformed),
            ("1é", Malformed),
            ("0d", OutOfRange),
            ("101y", OutOfRange),
            ("99999999999999999999y", OutOfRange),
            ("18446744073709551615y", OutOfRange),
        ] {
            assert_eq!(text.parse::<Lifetime>(), Err(error), "{text}");
        }
    }
}
