//! When a certificate is to be renewed, and how soon to try again where that failed. Pure: time and randomness are parameters. Both
//! ends use it: an agent for its own certificate, the hub for the one it serves with.

use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use super::Validity;
use crate::identity::CertificateFacts;

/// How long before its making a certificate is valid, for peers whose clock is behind. That time is not a part of its life.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// A failed renewal is tried again after at most this.
const MOST: Duration = Duration::from_secs(15 * 60);
/// And after at least this, however little is left.
const LEAST: Duration = Duration::from_millis(200);

/// When to renew: at half of its life, a tenth of it sooner or later. Which of that, the serial number says: it is random, so that a
/// fleet that was admitted in one hour does not renew in one; and it stays, so that no restart moves it.
pub fn due(certificate: &CertificateFacts) -> SystemTime {
    let validity = Validity::from(certificate);
    let (made, life) = life(&validity);
    let digest = Sha256::digest(certificate.serial.as_str());
    let lot = f64::from(u16::from_be_bytes([digest[0], digest[1]])) / f64::from(u16::MAX);
    made + life.mul_f64(0.4 + 0.2 * lot)
}

/// When a certificate was made, and how long it lives from then on.
fn life(validity: &Validity) -> (SystemTime, Duration) {
    let whole = validity.lifetime();
    match whole.checked_sub(CLOCK_SKEW) {
        Some(life) if !life.is_zero() => (validity.not_before + CLOCK_SKEW, life),
        // Somebody else's, without that allowance.
        _ => (validity.not_before, whole),
    }
}

/// How long to wait after so many failures in a row: doubling from a second, never more than a twentieth of what is left, so that
/// the attempts become more frequent towards the end. `lot` is random, from 0 to 1.
pub fn retry(failures: u32, left: Duration, lot: f64) -> Duration {
    let doubled = Duration::from_secs(1).saturating_mul(1 << failures.min(20));
    let ceiling = doubled.min(left / 20).min(MOST).max(LEAST);
    ceiling.mul_f64(0.5 + lot.clamp(0.0, 1.0) / 2.0)
}

/// From when on a certificate is so near its end that renewing it must have failed for long: a third of its life is left, or two weeks of
/// one that lives for months.
pub fn late(validity: &Validity) -> SystemTime {
    let (_, life) = life(validity);
    validity.not_after - (life / 3).min(Duration::from_secs(14 * 86_400))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Serial;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn made() -> SystemTime {
        SystemTime::UNIX_EPOCH + 500_000 * HOUR
    }

    fn certificate(serial: u32, life: Duration) -> CertificateFacts {
        CertificateFacts {
            subject: String::new(),
            issuer: String::new(),
            serial: Serial::from_bytes(&serial.to_be_bytes()),
            key: None,
            signed_by: None,
            not_before: made() - CLOCK_SKEW,
            not_after: made() + life,
            is_authority: false,
            for_clients: true,
            for_servers: false,
            uris: vec![],
            dns: vec![],
            ips: vec![],
            other_names: vec![],
        }
    }

    #[test]
    fn a_fleet_admitted_at_once_renews_spread_over_a_fifth_of_the_life() {
        let mut buckets = [0_u32; 8];
        for serial in 0..2_000 {
            let after = due(&certificate(serial, 24 * HOUR))
                .duration_since(made())
                .unwrap();
            assert!(
                after >= HOUR.mul_f64(9.6) && after <= HOUR.mul_f64(14.4),
                "{after:?}"
            );
            let share = (after - HOUR.mul_f64(9.6)).as_secs_f64() / HOUR.mul_f64(4.8).as_secs_f64();
            buckets[((share * 8.0) as usize).min(7)] += 1;
        }
        // 250 each, were it perfect.
        assert!(
            buckets.iter().all(|&n| (180..=320).contains(&n)),
            "{buckets:?}"
        );
    }

    #[test]
    fn when_a_certificate_is_renewed_is_the_same_after_a_restart() {
        assert_eq!(
            due(&certificate(7, 24 * HOUR)),
            due(&certificate(7, 24 * HOUR))
        );
    }

    #[test]
    fn the_allowance_for_clocks_is_no_part_of_a_short_life() {
        let short = Duration::from_secs(20);
        let after = due(&certificate(1, short)).duration_since(made()).unwrap();
        assert!(
            after >= short.mul_f64(0.4) && after <= short.mul_f64(0.6),
            "{after:?}"
        );
    }

    #[test]
    fn failures_are_repeated_rarely_at_first_and_often_towards_the_end() {
        assert!(retry(0, 12 * HOUR, 1.0) <= Duration::from_secs(1));
        assert_eq!(retry(30, 12 * HOUR, 1.0), MOST);
        assert_eq!(
            retry(30, Duration::from_secs(60), 1.0),
            Duration::from_secs(3)
        );
        assert_eq!(retry(30, Duration::ZERO, 1.0), LEAST);
        assert_eq!(retry(30, Duration::ZERO, 0.0), LEAST / 2);
    }

    #[test]
    fn late_is_a_third_of_the_life_or_two_weeks() {
        let late = |life: Duration| late(&Validity::from(&certificate(1, life)));
        assert_eq!(late(24 * HOUR), made() + 16 * HOUR);
        assert_eq!(late(8_760 * HOUR), made() + 8_760 * HOUR - 336 * HOUR);
    }
}
