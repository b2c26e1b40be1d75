use std::time::{Duration, SystemTime};

use berth_common::identity::TenantName;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, SanType};
use tokio::time::Instant;

use super::{
    attempts::ALLOWED,
    token::{hex, unhex},
    *,
};

const MINUTE: Duration = Duration::from_secs(60);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_413_000)
}

fn signed(serial: &str) -> Signed {
    Signed {
        serial: serial.into(),
        at: 7,
        seconds: 60,
    }
}

fn entry(token: &Token) -> Entry {
    let tenant = TenantName::parse("acme").unwrap();
    Entry::new(&token.digest(), tenant, "uid".into(), 30 * MINUTE, now())
}

fn first_use(entry: &Entry, token: &Token, key: &str) -> Entry {
    match entry.decide(&token.digest(), key, signed("01"), now()) {
        Ok(Decision::First(next)) => next,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_token_reads_as_it_is_written_and_nothing_else_does() {
    for bits in [[0; 32], [0xff; 32], std::array::from_fn(|at| at as u8 * 7)] {
        let token = Token::new(&bits);
        let text = token.reveal();
        assert_eq!(text.len(), 63);
        assert_eq!(Token::parse(text), Some(token.clone()));
        for wrong in [
            text.to_uppercase(),
            format!("{text} "),
            format!("{text}a"),
            text[..62].to_owned(),
            text.replacen("join", "jion", 1),
            format!("{}1", &text[..62]),
            // The digits of another spelling of the same bits.
            format!("{}b", &text[..62]),
            String::new(),
        ] {
            assert_eq!(Token::parse(&wrong), None, "{wrong}");
        }
    }
}

#[test]
fn each_of_its_bits_counts() {
    let zero = Token::new(&[0; 32]);
    for bit in 0..256 {
        let mut bits = [0; 32];
        bits[bit / 8] = 1 << (bit % 8);
        assert_ne!(Token::new(&bits), zero, "bit {bit}");
    }
}

#[test]
fn what_is_kept_or_shown_of_a_token_is_not_the_token() {
    let token = Token::new(&[5; 32]);
    let secret = token.reveal().trim_start_matches("berth-join-");
    let kept = serde_json::to_string(&entry(&token)).unwrap();
    let shown = format!("{token:?} {:?} {}", token.digest(), token.digest().id());
    assert!(
        !kept.contains(secret) && !shown.contains(secret),
        "{kept} {shown}"
    );
    assert!(kept.contains(&token.digest().to_hex()));
}

#[test]
fn the_first_key_binds_the_token_and_a_retry_gets_the_same_certificate() {
    let token = Token::new(&[1; 32]);
    let used = first_use(&entry(&token), &token, "key-1");
    assert_eq!(
        used.decide(&token.digest(), "key-1", signed("02"), now()),
        Ok(Decision::Again(signed("01")))
    );
    assert_eq!(
        used.decide(&token.digest(), "key-2", signed("03"), now()),
        Err(Refused::Used)
    );
}

#[test]
fn a_token_is_good_until_its_deadline_and_not_in_that_second() {
    let token = Token::new(&[1; 32]);
    let (entry, deadline) = (entry(&token), now() + 30 * MINUTE);
    let at = |entry: &Entry, time| entry.decide(&token.digest(), "key", signed("01"), time);
    let second = Duration::from_secs(1);
    assert!(at(&entry, deadline - second).is_ok());
    assert_eq!(at(&entry, deadline), Err(Refused::Expired));
    let used = first_use(&entry, &token, "key");
    assert_eq!(at(&used, deadline), Err(Refused::Expired), "a retry, too");
}

#[test]
fn no_token_is_good_for_more_than_an_hour() {
    let token = Token::new(&[1; 32]);
    let tenant = TenantName::parse("acme").unwrap();
    let entry = Entry::new(&token.digest(), tenant, "uid".into(), 600 * MINUTE, now());
    assert_eq!(entry.deadline - entry.created, 3_600);
}

#[test]
fn what_is_revoked_or_of_another_token_gives_nothing() {
    let (token, other) = (Token::new(&[1; 32]), Token::new(&[2; 32]));
    let good = entry(&token);
    let revoked = Entry {
        revoked: true,
        ..first_use(&good, &token, "key")
    };
    let decide =
        |entry: &Entry, token: &Token| entry.decide(&token.digest(), "key", signed("02"), now());
    assert_eq!(decide(&revoked, &token), Err(Refused::Revoked));
    assert_eq!(decide(&good, &other), Err(Refused::Unknown));
    assert_eq!(good.state(now()), "unused");
    assert_eq!(good.state(now() + 30 * MINUTE), "expired");
    assert_eq!(first_use(&good, &token, "key").state(now()), "used");
    assert_eq!(revoked.state(now()), "revoked");
}

#[test]
fn an_entry_is_remembered_for_an_hour_after_its_deadline() {
    let entry = entry(&Token::new(&[1; 32]));
    assert!(!entry.is_past(now() + 89 * MINUTE));
    assert!(entry.is_past(now() + 90 * MINUTE));
}

#[test]
fn an_entry_reads_as_it_is_written() {
    let token = Token::new(&[1; 32]);
    for entry in [entry(&token), first_use(&entry(&token), &token, "key")] {
        let text = serde_json::to_vec(&entry).unwrap();
        assert_eq!(serde_json::from_slice::<Entry>(&text).unwrap(), entry);
    }
}

fn csr(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::default();
    let uri = "spiffe://berth.local/tenant/somebody-else"
        .try_into()
        .unwrap();
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.serialize_request(key).unwrap().der().to_vec()
}

#[test]
fn of_a_request_the_key_is_taken_and_nothing_else() {
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let requested = Requested::from_der(&csr(&key)).unwrap();
        use rcgen::PublicKeyData as _;
        assert_eq!(requested.key.der_bytes(), key.der_bytes());
        let again = Requested::from_der(&csr(&key)).unwrap();
        assert_eq!(requested.fingerprint, again.fingerprint);
    }
}

#[test]
fn a_request_that_is_weak_broken_or_forged_is_refused() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let good = csr(&key);
    let mut forged = good.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let mut longer = good.clone();
    longer.push(0);
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    for (der, error) in [
        (&[][..], CsrError::Malformed),
        (&good[..good.len() - 1], CsrError::Malformed),
        (&longer, CsrError::Malformed),
        (&forged, CsrError::Signature),
        (&csr(&ed25519), CsrError::Key),
        (&vec![0x30; MAX_CSR_BYTES + 1], CsrError::TooLarge),
    ] {
        assert_eq!(Requested::from_der(der).unwrap_err(), error);
    }
}

#[test]
fn an_address_is_locked_by_its_refusals_for_longer_each_time_and_no_other_is() {
    let mut attempts = Attempts::default();
    let start = Instant::now();
    for n in 0..ALLOWED {
        assert!(!attempts.refused(&"a", start), "{n}");
        assert_eq!(attempts.may(&"a", start), Ok(()));
    }
    assert!(attempts.refused(&"a", start));
    assert_eq!(attempts.may(&"a", start), Err(Locked(MINUTE)));
    assert_eq!(attempts.may(&"b", start), Ok(()));
    let later = start + MINUTE;
    assert_eq!(attempts.may(&"a", later), Ok(()));
    attempts.refused(&"a", later);
    assert_eq!(attempts.may(&"a", later), Err(Locked(2 * MINUTE)));
    for _ in 0..20 {
        attempts.refused(&"a", later);
    }
    assert_eq!(attempts.may(&"a", later), Err(Locked(15 * MINUTE)));
    let forgotten = later + 30 * MINUTE;
    attempts.refused(&"a", forgotten);
    assert_eq!(attempts.may(&"a", forgotten), Ok(()));
}

#[test]
fn strangers_without_number_take_bounded_memory_and_unlock_nobody_recent() {
    let mut attempts = Attempts::default();
    let start = Instant::now();
    for _ in 0..=ALLOWED {
        attempts.refused(&0_u32, start);
    }
    for stranger in 1..40_000_u32 {
        attempts.refused(&stranger, start);
    }
    assert!(attempts.may(&0, start).is_err());
}

#[test]
fn hexadecimal_reads_as_it_is_written() {
    let bytes: [u8; 16] = std::array::from_fn(|at| at as u8 * 17);
    assert_eq!(unhex(&hex(&bytes)), Some(bytes));
    assert_eq!(unhex::<2>("zz00"), None);
    assert_eq!(unhex::<2>("00"), None);
    assert_eq!(unhex::<2>("éé"), None);
}
