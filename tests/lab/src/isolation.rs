//! Which walls the lab can have on this machine: namespaces as root, namespaces as an ordinary user, or none. Knows `unshare`
//! and what the kernel allows; must not start anything but a trial.

use std::process::{Command, Stdio};

/// The variable that forbids namespaces, for trying what happens where the kernel does: `BERTH_LAB_FABRIC=loopback`.
pub const FABRIC_VARIABLE: &str = "BERTH_LAB_FABRIC";

/// The user that stands for "an ordinary user" when root wants to see how the lab fares as one.
pub(crate) const NOBODY: u32 = 65_534;

/// The walls around a lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Namespaces made by root.
    Root,
    /// Namespaces made by an ordinary user. Subordinate ids, which real kubelets need, come from `newuidmap`.
    User {
        /// Whether subordinate ids are mapped.
        subordinate: bool,
    },
    /// No namespaces: everything listens on 127.0.0.1, and no packet reaches a load balancer.
    Loopback,
}

impl Isolation {
    /// The best that works here. `as_nobody` tries it as an ordinary user though the caller is root.
    #[must_use]
    pub fn detect(as_nobody: bool) -> Self {
        if std::env::var(FABRIC_VARIABLE).is_ok_and(|v| v == "loopback") {
            return Self::Loopback;
        }
        let candidates = [
            Self::Root,
            Self::User { subordinate: true },
            Self::User { subordinate: false },
        ];
        let skipped = usize::from(as_nobody);
        candidates
            .into_iter()
            .skip(skipped)
            .find(|candidate| candidate.works(as_nobody))
            .unwrap_or(Self::Loopback)
    }

    /// Whether packets can flow.
    #[must_use]
    pub fn has_packets(self) -> bool {
        self != Self::Loopback
    }

    /// Where the lab runs, in a sentence, and what would allow more.
    #[must_use]
    pub fn explain(self) -> &'static str {
        match self {
            Self::Root => "The lab runs in namespaces made by root.",
            Self::User { .. } => "The lab runs in namespaces made by an ordinary user.",
            Self::Loopback => {
                "The lab runs on 127.0.0.1, without packets: the kernel forbids unprivileged namespaces here \
                 (sysctl kernel.unprivileged_userns_clone=1, or kernel.apparmor_restrict_unprivileged_userns=0, allows them)."
            }
        }
    }

    fn works(self, as_nobody: bool) -> bool {
        let argv = [self.wrapper(as_nobody), vec!["true".into()]].concat();
        let Some((name, arguments)) = argv.split_first() else {
            return false;
        };
        let trial = Command::new(name)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        trial.is_ok_and(|status| status.success())
    }

    /// The command that runs another one behind these walls.
    pub(crate) fn wrapper(self, as_nobody: bool) -> Vec<String> {
        let mut argv = Vec::new();
        if as_nobody {
            let id = NOBODY.to_string();
            argv.extend(
                ["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"].map(String::from),
            );
        }
        let user: &[&str] = match self {
            Self::Loopback => return argv,
            Self::Root => &[],
            Self::User { subordinate: false } => &["--user", "--map-root-user"],
            Self::User { subordinate: true } => &["--user", "--map-root-user", "--map-auto"],
        };
        let rest = [
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation",
            "private",
        ];
        argv.push("unshare".into());
        argv.extend(user.iter().chain(&rest).map(|&word| word.into()));
        argv
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_needs_no_user_namespace_and_loopback_none_at_all() {
        assert!(
            !Isolation::Root
                .wrapper(false)
                .contains(&"--user".to_owned())
        );
        assert!(Isolation::Loopback.wrapper(false).is_empty());
        assert_eq!(
            Isolation::User { subordinate: false }.wrapper(true)[0],
            "setpriv"
        );
    }
}
