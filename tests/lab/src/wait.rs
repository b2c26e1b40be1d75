//! Waiting for a level: something that will be true and stay true. Knows clocks; must not know what is waited for.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::error::{Error, Result};

/// Between two looks: short beside everything that is waited for here, long beside one look.
const BETWEEN: Duration = Duration::from_millis(50);

/// What was seen instead of what was waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen(pub String);

impl From<&str> for Seen {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Seen {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<Error> for Seen {
    fn from(error: Error) -> Self {
        Self(error.chain())
    }
}

impl From<anyhow::Error> for Seen {
    fn from(error: anyhow::Error) -> Self {
        Self(format!("{error:#}"))
    }
}

impl From<kube::Error> for Seen {
    fn from(error: kube::Error) -> Self {
        Error::from(error).into()
    }
}

/// Looks until `look` finds what it wants, at most for `deadline`; then the error says what was seen last.
///
/// ```ignore
/// let ip = eventually(SECONDS_5, "the Service has an IP", || async {
///     let service = services.get("backend").await?;
///     ip_of(&service).ok_or_else(|| format!("status {:?}", service.status).into())
/// }).await?;
/// ```
pub async fn eventually<T, F, Fut>(deadline: Duration, what: &str, mut look: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, Seen>>,
{
    let end = Instant::now() + deadline;
    let mut last = "nothing: the first look did not return".to_owned();
    loop {
        match timeout_at(end, look()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(seen)) => last = seen.0,
            Err(_) => {}
        }
        if Instant::now() + BETWEEN >= end {
            let what = what.to_owned();
            return Err(Error::Deadline {
                what,
                deadline,
                last,
            });
        }
        sleep(BETWEEN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test]
    async fn the_level_is_found_after_a_few_looks() {
        let looks = Cell::new(0);
        let found = eventually(Duration::from_secs(5), "three looks", || async {
            looks.set(looks.get() + 1);
            if looks.get() == 3 {
                Ok("there")
            } else {
                Err("not yet".into())
            }
        });
        assert_eq!(found.await.unwrap(), "there");
    }

    #[tokio::test]
    async fn a_missed_deadline_shows_what_was_seen_last() {
        let never = eventually::<(), _, _>(Duration::from_millis(120), "the moon", || async {
            Err("only clouds".into())
        });
        let text = never.await.unwrap_err().to_string();
        assert_eq!(text, "the moon: not within 120ms\nlast seen: only clouds");
    }

    #[tokio::test]
    async fn a_look_that_hangs_does_not_hang_the_wait() {
        let hangs = eventually::<(), _, _>(Duration::from_millis(60), "an answer", || async {
            std::future::pending().await
        });
        assert!(matches!(hangs.await, Err(Error::Deadline { .. })));
    }
}
