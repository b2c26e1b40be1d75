//! What a Tenant's status tells of its agent's certificate, and whether the agent is to be asked for another one. Pure.

use std::collections::BTreeSet;

use berth_common::identity::KeyId;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{api::CertificateStatus, ca::Wanted, tenants::Standing};

/// What is known now: of the live session; where there is none what was known before; and of a tenant of which nothing was, what its
/// latest session has shown.
pub(super) fn known(
    current: Option<&CertificateStatus>,
    standing: &Standing,
) -> Option<CertificateStatus> {
    let last = standing.last.as_ref().filter(|_| current.is_none());
    let (shown, renews) = match (&standing.certificate, last) {
        (Some(shown), _) => (shown, standing.renews),
        (None, Some((shown, renews))) => (shown, *renews),
        (None, None) => return current.cloned(),
    };
    let serial = shown.credential.serial.to_string();
    let same = current.filter(|known| known.serial == serial);
    let trusts = match (&shown.trusts, same) {
        (Some(trusts), _) => trusts.iter().map(KeyId::to_string).collect(),
        (None, Some(known)) => known.trusts.clone(),
        // Whoever was given a certificate was told to trust whom it is from.
        (None, None) => Vec::from_iter(shown.credential.signed_by.map(|key| key.to_string())),
    };
    let end = k8s_openapi::jiff::Timestamp::try_from(shown.credential.not_after).ok()?;
    Some(CertificateStatus {
        serial,
        authority: shown.credential.signed_by.map(|key| key.to_string()),
        trusts,
        not_after: Time(end),
        renews,
    })
}

/// Whether what this tenant has is not what it would be given now.
pub(super) fn is_outdated(known: &CertificateStatus, wanted: &Wanted) -> bool {
    let text = |key: &KeyId| key.to_string();
    let trusts: BTreeSet<String> = known.trusts.iter().cloned().collect();
    known.authority != wanted.trusted.first().map(text)
        || trusts != wanted.trusted.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use berth_common::identity::Serial;

    use super::*;
    use crate::tenants::{Credential, Shown};

    fn key(n: u8) -> KeyId {
        KeyId::from_bytes(&[n; 8]).unwrap()
    }

    fn session(serial: u8, authority: u8, trusts: Option<&[u8]>) -> Standing {
        Standing {
            connected: true,
            renews: true,
            certificate: Some(Shown {
                credential: Credential {
                    serial: Serial::from_bytes(&[serial]),
                    not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000),
                    signed_by: Some(key(authority)),
                    ..Credential::default()
                },
                trusts: trusts.map(|all| all.iter().map(|&n| key(n)).collect()),
            }),
            ..Standing::default()
        }
    }

    fn wanted(trusted: &[u8]) -> Wanted {
        Wanted {
            version: 1,
            trusted: trusted.iter().map(|&n| key(n)).collect(),
        }
    }

    #[test]
    fn a_certificate_is_told_once_and_whom_its_agent_trusts_outlives_the_session_and_the_hub() {
        let first = known(None, &session(7, 1, None)).unwrap();
        assert_eq!(first.trusts, [key(1).to_string()]);
        assert_eq!(
            known(Some(&first), &session(7, 1, None)),
            Some(first.clone())
        );
        assert_eq!(
            known(Some(&first), &Standing::default()),
            Some(first.clone())
        );

        let renewed = known(Some(&first), &session(8, 1, Some(&[1, 2]))).unwrap();
        assert_eq!(renewed.trusts.len(), 2);
        // Another process of the hub sees the same certificate, and was not there when it was given.
        assert_eq!(
            known(Some(&renewed), &session(8, 1, None)),
            Some(renewed.clone())
        );
        // An agent that lost what it was given shows the former one: nothing is known of what came with the other.
        assert_eq!(known(Some(&renewed), &session(7, 1, None)), Some(first));
    }

    #[test]
    fn a_session_that_ended_before_anybody_looked_has_shown_its_certificate_all_the_same() {
        let live = session(7, 1, None);
        let ended = Standing {
            connected: false,
            renews: false,
            last: live.certificate.clone().map(|shown| (shown, true)),
            certificate: None,
            ..live.clone()
        };
        let told = known(None, &ended);
        assert_eq!(told, known(None, &live));
        // Where more is known, by another process as well, that counts.
        let newer = known(None, &session(8, 2, None));
        assert_eq!(known(newer.as_ref(), &ended), newer);
    }

    #[test]
    fn who_is_asked_has_another_authority_or_trusts_others_than_it_would_be_told_to() {
        let has =
            |authority, trusts: &[u8]| known(None, &session(7, authority, Some(trusts))).unwrap();
        assert!(!is_outdated(&has(1, &[1]), &wanted(&[1])));
        assert!(is_outdated(&has(1, &[1]), &wanted(&[1, 2])));
        assert!(!is_outdated(&has(1, &[2, 1]), &wanted(&[1, 2])));
        assert!(is_outdated(&has(1, &[1, 2]), &wanted(&[2, 1])));
        assert!(is_outdated(&has(2, &[2, 1]), &wanted(&[2])));
    }
}
