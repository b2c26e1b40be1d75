//! How a rotation reads: which step it is at, how many tenants have come how far, who is waited for and why. Pure.

use std::{fmt::Write as _, time::SystemTime};

use berth_common::{
    identity::{KeyId, TenantName},
    tls::format_time,
};

use crate::ca::{
    Stage,
    rotation::{Counts, Keys, Report, Wait, Why, counts, without},
};

/// More tenants than these are only counted.
const NAMED: usize = 12;

/// What stands in the place.
pub(super) struct View<'a> {
    pub(super) place: &'a str,
    pub(super) stage: Stage,
    pub(super) keys: Keys,
}

impl View<'_> {
    /// The authority whose certificates all are to have in the end.
    pub(super) fn new_key(&self) -> Option<KeyId> {
        match self.stage {
            Stage::Published { next, .. } => Some(next),
            Stage::Switched { .. } | Stage::Rest(_) => self.keys.signer,
        }
    }

    fn former_key(&self) -> Option<KeyId> {
        match self.stage {
            Stage::Published { .. } => self.keys.signer,
            Stage::Switched { .. } => self.keys.previous,
            Stage::Rest(_) => self.new_key(),
        }
    }

    /// What stands there, and how far the tenants are.
    pub(super) fn tell(&self, reports: &[Report], wait: Option<&Wait>, now: SystemTime) -> String {
        let mut text = self.headline();
        let Counts {
            all,
            trusting,
            issued,
        } = counts(reports, self.former_key(), self.new_key(), now);
        if self.new_key().is_some() {
            let _ = writeln!(
                text,
                "  {trusting} of {all} tenants with a certificate trust {new}, {issued} have one of it",
                new = named(self.new_key()),
            );
        }
        match wait {
            None => {
                // At rest nobody is waited for, and what is left of an earlier authority is still of interest.
                let left = without(reports, self.keys.signer, now);
                if matches!(self.stage, Stage::Rest(_)) && !left.is_empty() {
                    text.push_str("  without a certificate of it:\n");
                    text.push_str(&tenants(&left));
                }
            }
            Some(wait) => {
                if let Some(settles) = wait.settles {
                    let _ = writeln!(
                        text,
                        "  waits until {}, when every replica of the hub has read this",
                        format_time(settles)
                    );
                }
                if !wait.tenants.is_empty() {
                    text.push_str("  waits for:\n");
                    text.push_str(&tenants(&wait.tenants));
                }
            }
        }
        text
    }

    fn headline(&self) -> String {
        let place = self.place;
        let signer = named(self.keys.signer);
        match self.stage {
            Stage::Rest(None) => format!("{place}: {signer} signs, and no other is trusted\n"),
            Stage::Rest(Some(since)) => format!(
                "{place}: {signer} signs, and no other is trusted since {}\n",
                format_time(since)
            ),
            Stage::Published { next, since } => format!(
                "{place}: step 1 of 3, since {}: {signer} signs, and agents are told to trust {next} beside it\n",
                format_time(since)
            ),
            Stage::Switched { since } => format!(
                "{place}: step 2 of 3, since {}: {signer} signs, and {} is still trusted\n",
                format_time(since),
                named(self.keys.previous)
            ),
        }
    }
}

/// One line for each, and what is to be done about those who do not come by themselves.
pub(super) fn tenants(all: &[(TenantName, Why)]) -> String {
    let mut text = String::new();
    for (name, why) in all.iter().take(NAMED) {
        let why = match why {
            Why::Asked => "is connected, and is asked to renew its certificate".to_owned(),
            Why::Away(ends) => format!(
                "is not connected; its certificate ends on {}",
                format_time(*ends)
            ),
            Why::ByHand(ends) => format!(
                "does not renew by itself: give it another certificate, and the new authority to trust (until {})",
                format_time(*ends)
            ),
            Why::Unknown => "was connected before the hub kept account of certificates".to_owned(),
        };
        let _ = writeln!(text, "    {name}: {why}");
    }
    if all.len() > NAMED {
        let _ = writeln!(text, "    and {} more", all.len() - NAMED);
    }
    text
}

fn named(key: Option<KeyId>) -> String {
    key.map_or_else(
        || "an authority without a key id".to_owned(),
        |key| key.to_string(),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ca::rotation::Shown;

    fn key(n: u8) -> KeyId {
        KeyId::from_bytes(&[n; 8]).unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000 + seconds)
    }

    #[test]
    fn it_reads_well() {
        let shown = |authority, trusts: &[u8]| Shown {
            authority: Some(key(authority)),
            trusts: trusts.iter().map(|&n| key(n)).collect(),
            ends: at(86_400),
            renews: true,
        };
        let report = |name: &str, certificate| Report {
            tenant: name.parse().unwrap(),
            connected: true,
            certificate,
            known: true,
        };
        let reports = [
            report("acme", Some(shown(2, &[1, 2]))),
            report("globex", Some(shown(1, &[1]))),
            report("never", None),
        ];
        let view = |stage, signer, previous| View {
            place: "the Secret berth-system/berth-ca",
            stage,
            keys: Keys {
                signer: Some(key(signer)),
                previous,
            },
        };
        let wait = Wait {
            settles: Some(at(15)),
            tenants: vec![
                ("globex".parse().unwrap(), Why::Asked),
                ("hooli".parse().unwrap(), Why::Away(at(86_400))),
                ("initech".parse().unwrap(), Why::ByHand(at(86_400))),
                ("umbrella".parse().unwrap(), Why::Unknown),
            ],
        };
        let published = Stage::Published {
            next: key(2),
            since: at(0),
        };
        let switched = Stage::Switched { since: at(0) };
        let all = [
            view(Stage::Rest(None), 1, None).tell(&reports, None, at(20)),
            view(published, 1, None).tell(&reports, Some(&wait), at(20)),
            view(switched, 2, Some(key(1))).tell(&reports, Some(&wait), at(20)),
            view(Stage::Rest(Some(at(10))), 2, None).tell(&reports[..1], None, at(20)),
        ];
        insta::assert_snapshot!(all.join("\n"));
    }
}
