//! Requests at a steady pace, each on a connection of its own, and what became of each: for tests and measurements of what a
//! change costs those who ask meanwhile. Knows HTTP and clocks; must not know what changes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::client::Client;
use crate::error::{Error, Result};
use crate::wait::{Seen, eventually};

/// How long a request may take. Below the second after which the kernel sends a lost SYN again, so that every loss is seen.
const PATIENCE: Duration = Duration::from_millis(900);

/// How many requests in a row must have been answered for the disturbance to count as over.
const CALM: usize = 40;

/// One request.
#[derive(Debug, Clone)]
pub struct Shot {
    /// Its place among all, from 0.
    pub number: usize,
    /// When it began.
    pub began: Instant,
    /// When it was answered, or given up.
    pub ended: Instant,
    /// The answer, or why there was none.
    pub answer: Result<String, String>,
}

/// Requests that go on until told otherwise.
#[derive(Debug)]
pub struct Traffic {
    shots: Arc<Mutex<Vec<Shot>>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Traffic {
    /// Starts fetching a URL, one request every `pace`, whether or not the one before was answered.
    #[must_use]
    pub fn start(client: Client, url: &str, pace: Duration) -> Self {
        let shots = Arc::default();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(run(
            client,
            url.to_owned(),
            pace,
            Arc::clone(&shots),
            stopped,
        ));
        Self { shots, stop, task }
    }

    /// All that ended so far, in the order of their ends.
    #[must_use]
    pub fn so_far(&self) -> Vec<Shot> {
        let shots = self.shots.lock();
        shots.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until a request that began at or after `since` was answered, and returns it.
    pub async fn await_answer(&self, since: Instant, deadline: Duration) -> Result<Shot> {
        eventually(deadline, "a request is answered", || async {
            let shots = self.so_far();
            let mut answered = shots
                .iter()
                .filter(|shot| shot.began >= since && shot.answer.is_ok());
            let found = answered.next().cloned();
            found.ok_or_else(|| Seen(format!("{:?}", shots.last())))
        })
        .await
    }

    /// Waits until forty requests in a row that began at or after `since` were all answered, and none before the last of them
    /// is still under way: one that will be lost takes longer than one that is answered.
    pub async fn await_calm(&self, since: Instant, deadline: Duration) -> Result<()> {
        let what = format!("{CALM} requests in a row are answered");
        eventually(deadline, &what, || async {
            let shots = decided(self.so_far());
            let answered = shots.iter().rev();
            let answered = answered.take_while(|shot| shot.answer.is_ok() && shot.began >= since);
            match answered.count() {
                CALM.. => Ok(()),
                n => Err(Seen(format!("{n} of {} in a row", shots.len()))),
            }
        })
        .await
    }

    /// Ends it, waits for what is still under way, and returns all requests in the order of their beginnings.
    pub async fn stop(self) -> Result<Vec<Shot>> {
        // Whoever does not listen any more has ended, which the task itself tells.
        let _ = self.stop.send(());
        let ended = self.task.await;
        ended.map_err(|error| Error::Start(format!("the traffic failed: {error}")))?;
        let mut shots = self.shots.lock().unwrap_or_else(PoisonError::into_inner);
        let mut shots = std::mem::take(&mut *shots);
        shots.sort_by_key(|shot| shot.number);
        Ok(shots)
    }
}

/// Those before the first that is still under way, in the order of their beginnings.
fn decided(mut shots: Vec<Shot>) -> Vec<Shot> {
    shots.sort_by_key(|shot| shot.number);
    let decided = shots.iter().enumerate();
    let decided = decided.take_while(|(place, shot)| *place == shot.number);
    let count = decided.count();
    shots.truncate(count);
    shots
}

/// Those of them that were not answered.
#[must_use]
pub fn lost(shots: &[Shot]) -> Vec<&Shot> {
    shots.iter().filter(|shot| shot.answer.is_err()).collect()
}

async fn run(
    client: Client,
    url: String,
    pace: Duration,
    shots: Arc<Mutex<Vec<Shot>>>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut under_way = FuturesUnordered::new();
    let mut numbers = 0..;
    let mut ticks = interval(pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let keep = |shot| {
        let mut shots = shots.lock().unwrap_or_else(PoisonError::into_inner);
        shots.push(shot);
    };
    loop {
        tokio::select! {
            _ = ticks.tick() => under_way.extend(numbers.next().map(|number| shoot(&client, &url, number))),
            Some(shot) = under_way.next() => keep(shot),
            _ = &mut stopped => break,
        }
    }
    while let Some(shot) = under_way.next().await {
        keep(shot);
    }
}

async fn shoot(client: &Client, url: &str, number: usize) -> Shot {
    let began = Instant::now();
    let answer = match timeout(PATIENCE, client.get(url)).await {
        Ok(answer) => answer.map_err(|error| error.chain()),
        Err(_) => Err(format!("no answer in {PATIENCE:?}")),
    };
    Shot {
        number,
        began,
        ended: Instant::now(),
        answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_after_a_request_under_way_is_not_decided() {
        let now = Instant::now();
        let shot = |number| Shot {
            number,
            began: now,
            ended: now,
            answer: Ok(String::new()),
        };
        let decided = decided([4, 0, 1, 3].map(shot).into());
        let numbers: Vec<_> = decided.iter().map(|shot| shot.number).collect();
        assert_eq!(numbers, [0, 1]);
    }
}
