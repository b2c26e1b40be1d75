//! Until when a connection may live: until its certificate ends, and longer where the peer was given a newer one over it.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::watch;

/// The end of a connection. Clones are of the same connection.
#[derive(Clone, Debug)]
pub struct Expiry(Arc<watch::Sender<SystemTime>>);

impl Expiry {
    /// At that time, unless it is extended.
    pub fn new(at: SystemTime) -> Self {
        Self(Arc::new(watch::Sender::new(at)))
    }

    /// As it is now.
    pub fn at(&self) -> SystemTime {
        *self.0.borrow()
    }

    /// Not before that time. It never becomes earlier.
    pub fn extend(&self, to: SystemTime) {
        self.0.send_if_modified(|at| {
            let later = to > *at;
            if later {
                *at = to;
            }
            later
        });
    }

    /// Resolves when it has passed.
    pub async fn passed(&self) {
        let mut changes = self.0.subscribe();
        loop {
            let at = *changes.borrow_and_update();
            let Ok(left) = at.duration_since(SystemTime::now()) else {
                return;
            };
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                // The sender is ours, and lives as long as we are borrowed.
                _ = changes.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_becomes_later_and_never_earlier() {
        let start = SystemTime::now();
        let expiry = Expiry::new(start);
        expiry.passed().await;
        let hour = Duration::from_secs(3_600);
        expiry.extend(start + hour);
        expiry.extend(start + hour / 2);
        assert_eq!(expiry.at(), start + hour);
        let passed = tokio::time::timeout(Duration::from_millis(50), expiry.passed()).await;
        assert!(passed.is_err());
    }
}
