//! Whether this process is ready, and whether it still lives: who waits holds a [`Blocker`], who must not end holds a
//! [`Vital`], and dropping either says so. It knows names and nothing of what they stand for; `admin` serves the result.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    thread,
};

use tokio::sync::watch;

/// What stands between this process and being ready, and which of its vital parts have ended. Clones share one state.
#[derive(Clone, Debug)]
pub struct Ready {
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    blockers: BTreeMap<u64, Cow<'static, str>>,
    dead: BTreeSet<Cow<'static, str>>,
}

impl Ready {
    /// Ready from the start: register the first blockers before anything serves this.
    pub fn new() -> Self {
        Self {
            state: watch::Sender::new(State::default()),
        }
    }

    /// Not ready from here until the blocker is done or dropped. Allowed at any time: a component whose ground gives way
    /// registers again, and the process is unready again. The name is what `/readyz` shows to a person: "management
    /// caches", not a type's name.
    #[must_use = "dropping the blocker makes its component ready"]
    pub fn register(&self, name: impl Into<Cow<'static, str>>) -> Blocker {
        let mut id = 0;
        self.state.send_modify(|state| {
            id = state.next;
            state.next += 1;
            state.blockers.insert(id, name.into());
        });
        Blocker {
            ready: self.clone(),
            id,
        }
    }

    /// Names a part that the process cannot live without. If the guard is dropped without [`Vital::done`], because its
    /// task returned early or panicked, the process is reported dead and Kubernetes restarts it.
    #[must_use = "dropping the guard reports its part as dead"]
    pub fn vital(&self, name: impl Into<Cow<'static, str>>) -> Vital {
        Vital {
            ready: self.clone(),
            name: Some(name.into()),
        }
    }

    /// What is still waited for, oldest first, each name once. Empty: ready.
    pub fn pending(&self) -> Vec<String> {
        let mut pending: Vec<String> = Vec::new();
        for name in self.state.borrow().blockers.values() {
            if !pending.iter().any(|it| it == name) {
                pending.push(name.to_string());
            }
        }
        pending
    }

    /// The vital parts that ended when they should not have. Empty: alive.
    pub fn dead(&self) -> Vec<String> {
        self.state
            .borrow()
            .dead
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// Returns as soon as nothing is pending; at once if nothing is.
    pub async fn wait(&self) {
        let mut changes = self.state.subscribe();
        // An error would mean that every sender is gone, and `self` is one.
        let _ = changes.wait_for(|state| state.blockers.is_empty()).await;
    }
}

impl Default for Ready {
    fn default() -> Self {
        Self::new()
    }
}

/// Keeps the process unready for as long as it exists.
#[derive(Debug)]
pub struct Blocker {
    ready: Ready,
    id: u64,
}

impl Blocker {
    /// The component is ready. The same as dropping the blocker, but says what is meant.
    pub fn done(self) {}
}

impl Drop for Blocker {
    fn drop(&mut self) {
        // A task that panics while it starts has not become ready by that.
        if thread::panicking() {
            return;
        }
        self.ready.state.send_modify(|state| {
            state.blockers.remove(&self.id);
        });
    }
}

/// Reports the process as dead when dropped without [`Vital::done`].
#[derive(Debug)]
pub struct Vital {
    ready: Ready,
    name: Option<Cow<'static, str>>,
}

impl Vital {
    /// The part ended as it should, in an orderly stop.
    pub fn done(mut self) {
        self.name = None;
    }
}

impl Drop for Vital {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            self.ready.state.send_modify(|state| {
                state.dead.insert(name);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ready_when_every_blocker_is_gone() {
        let ready = Ready::new();
        let caches = ready.register("caches");
        let hub = ready.register("hub session");
        assert_eq!(ready.pending(), ["caches", "hub session"]);
        drop(caches);
        assert_eq!(ready.pending(), ["hub session"]);
        hub.done();
        assert!(ready.pending().is_empty());
    }

    #[test]
    fn becomes_unready_again() {
        let ready = Ready::new();
        ready.register("hub session").done();
        assert!(ready.pending().is_empty());
        let again = ready.register("hub session");
        assert_eq!(ready.pending(), ["hub session"]);
        again.done();
        assert!(ready.pending().is_empty());
    }

    #[test]
    fn a_name_held_twice_is_shown_once_and_pends_until_both_are_done() {
        let ready = Ready::new();
        let first = ready.register("caches");
        let second = ready.register("caches");
        assert_eq!(ready.pending(), ["caches"]);
        first.done();
        assert_eq!(ready.pending(), ["caches"]);
        second.done();
        assert!(ready.pending().is_empty());
    }

    #[test]
    fn a_panic_does_not_make_ready() {
        let ready = Ready::new();
        let blocker = ready.register("caches");
        let ended = thread::spawn(move || {
            let _blocker = blocker;
            std::panic::resume_unwind(Box::new("test"));
        })
        .join();
        assert!(ended.is_err());
        assert_eq!(ready.pending(), ["caches"]);
    }

    #[test]
    fn a_vital_part_that_ends_is_dead_unless_done() {
        let ready = Ready::new();
        ready.vital("lease").done();
        assert!(ready.dead().is_empty());
        drop(ready.vital("executor"));
        assert_eq!(ready.dead(), ["executor"]);
    }

    #[tokio::test(start_paused = true)]
    async fn wait_returns_when_the_last_blocker_goes() {
        let ready = Ready::new();
        ready.wait().await;
        let blocker = ready.register("caches");
        tokio::time::timeout(Duration::from_secs(1), ready.wait())
            .await
            .expect_err("still blocked");
        let waiting = tokio::spawn({
            let ready = ready.clone();
            async move { ready.wait().await }
        });
        blocker.done();
        waiting.await.expect("the waiter ends");
    }
}
