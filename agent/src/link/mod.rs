//! The shell of the session: dials the hub, moves messages between the stream and the broker with one task that reads
//! and one that writes, and after each end decides when to come back. What is said is not decided here.

mod ending;
mod live;
mod party;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use berth_common::{
    backoff::Backoff,
    ready::Blocker,
    session::{MESSAGE_BYTES, agent::Event},
};
use berth_wire::v1::{self, agent_service_client::AgentServiceClient};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tracing::{Instrument as _, Span, debug, field, info, info_span, warn};

pub use self::{ending::Ending, live::Live, party::Party};
use crate::{
    dial::{Connection, Dialer},
    metrics::AgentMetrics,
};

/// The first delay after a failure is at most this.
const BACKOFF_BASE: Duration = Duration::from_millis(500);
/// A message that has not left after this long means that the hub reads no more.
const STALL: Duration = Duration::from_secs(15);
/// How long the hub gets to end the stream after we did.
const PARTING: Duration = Duration::from_secs(1);
/// How long the first attempt waits for the cluster to be read: then it opens the session without, and says so.
const FIRST_READ: Duration = Duration::from_secs(5);

/// The link to the hub.
pub struct Link<P> {
    party: Arc<P>,
    dialer: Dialer,
    metrics: AgentMetrics,
    live: Live,
    /// Until the first session was synced.
    unready: Option<Blocker>,
    backoff: Backoff,
    random: fastrand::Rng,
    /// What was last said about not being connected.
    said: Option<String>,
}

/// What is remembered of one session.
#[derive(Debug, Default)]
struct Course {
    /// The spread that Welcome told, once it did.
    spread: Option<Duration>,
    synced_since: Option<Instant>,
}

impl<P: Party> Link<P> {
    /// A link that will dial with `dialer`; `unready`, if any, goes when the first session is synced.
    pub fn new(
        party: Arc<P>,
        dialer: Dialer,
        metrics: AgentMetrics,
        unready: Option<Blocker>,
    ) -> Self {
        Self {
            party,
            dialer,
            metrics,
            live: Live::default(),
            unready,
            backoff: Backoff::new(BACKOFF_BASE),
            random: fastrand::Rng::new(),
            said: None,
        }
    }

    /// The connection of the session, as long as there is one.
    pub fn live(&self) -> Live {
        self.live.clone()
    }

    /// Keeps a session until `stop` is cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut source = self.party.source_synced();
        tokio::select! {
            _ = timeout(FIRST_READ, source.wait_for(|synced| *synced)) => {}
            () = stop.cancelled() => return,
        }
        let mut certificates = self.dialer.tls().revisions();
        while !stop.is_cancelled() {
            certificates.mark_unchanged();
            let span = info_span!("session", hub = %self.dialer.address(), number = field::Empty);
            let mut course = Course::default();
            let ending = self.session(&mut course, &stop).instrument(span).await;
            self.party.disconnected();
            self.metrics.session_ended(ending.label());
            let delay = self.delay(&ending, &course);
            self.say(&ending, delay);
            if course.spread.is_none() && !ending.is_ours() {
                self.party.unheard(&ending.to_string());
            }
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                // A new certificate may be what was missing.
                Ok(()) = certificates.changed() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn session(&mut self, course: &mut Course, stop: &CancellationToken) -> Ending {
        let tls = Arc::clone(self.dialer.tls());
        // Of the certificate that is shown, or of one just before it.
        let expires = tls.current().leaf.not_after;
        let dialled = tokio::select! {
            dialled = self.dialer.dial() => dialled,
            () = stop.cancelled() => return Ending::Stopped,
        };
        let connection = match dialled {
            Ok(connection) => connection,
            Err(error) => return Ending::Unreachable(error),
        };
        let live = self.live.clone();
        let opened = live.open(connection.channel.clone(), expires);
        let (sender, receiver) = mpsc::channel(1);
        self.party.connected(Instant::now());
        let mut writer = JoinSet::new();
        let party = Arc::clone(&self.party);
        writer.spawn(async move { write(&*party, &sender).await }.in_current_span());
        let party = Arc::clone(&self.party);
        let mut reader = std::pin::pin!(self.read(connection, receiver, course));
        tokio::select! {
            ending = &mut reader => return ending,
            Some(Ok(Some(ending))) = writer.join_next() => return ending,
            () = party.redial() => return Ending::OtherCluster,
            () = opened.outlived(&tls) => return Ending::Renewed,
            () = stop.cancelled() => {}
        }
        // Without a writer the stream ends on our side; the hub then ends it on its own.
        writer.abort_all();
        let _ = timeout(PARTING, reader).await;
        Ending::Stopped
    }

    async fn read(
        &mut self,
        connection: Connection,
        messages: mpsc::Receiver<v1::AgentMessage>,
        course: &mut Course,
    ) -> Ending {
        let Connection { channel, fate } = connection;
        let mut client = AgentServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES);
        let answers = client.sync(ReceiverStream::new(messages)).await;
        let mut answers: Streaming<v1::HubMessage> = match answers {
            Ok(response) => response.into_inner(),
            Err(status) => return Ending::of_status(&status, &fate),
        };
        loop {
            let message = match answers.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Ending::Closed,
                Err(status) => return Ending::of_status(&status, &fate),
            };
            let news = match self.party.received(message, Instant::now()) {
                Ok(news) => news,
                Err(error) => return Ending::of_protocol(error),
            };
            for event in news {
                if let Some(ending) = self.heard(event, course) {
                    return ending;
                }
            }
        }
    }

    fn heard(&mut self, event: Event, course: &mut Course) -> Option<Ending> {
        match event {
            Event::Welcomed {
                session,
                reconnect_spread,
            } => {
                Span::current().record("number", session);
                course.spread = Some(reconnect_spread);
                self.said = None;
                info!("connected to the hub");
            }
            Event::Waiting { ahead } => {
                info!("the hub hears {ahead} other clusters first; what is served stays as it is");
            }
            Event::Synced => {
                course.synced_since.get_or_insert_with(Instant::now);
                if let Some(unready) = self.unready.take() {
                    unready.done();
                }
                info!("the hub has everything that this cluster wants");
            }
            Event::Reissue { within } => self.live.ask(within),
            Event::Drain { within, reason } => return Some(Ending::Drained { within, reason }),
            Event::Ignored(what) => debug!("ignored something that the hub said: {what}"),
            Event::Answer(..) => {}
        }
        None
    }

    fn delay(&mut self, ending: &Ending, course: &Course) -> Duration {
        let synced = course
            .synced_since
            .map(|since| since.elapsed())
            .unwrap_or_default();
        let random = &mut self.random;
        match ending {
            Ending::Stopped | Ending::OtherCluster | Ending::Renewed => Duration::ZERO,
            Ending::Drained { within, .. } => within.mul_f64(random.f64()),
            _ => {
                let delay = self.backoff.next(ending.cause(), synced, random);
                let spread = course.spread.unwrap_or_default().mul_f64(random.f64());
                match (ending.is_everyones(), course.synced_since) {
                    // The first attempt after a live session spreads as the hub asked, so that a fleet that lost its
                    // hub in one instant does not return in one.
                    (true, Some(_)) if !spread.is_zero() => spread,
                    (true, _) => delay.max(spread),
                    // The hub has ended this session and no other, and may do so again: that must become rarer.
                    (false, _) => delay,
                }
            }
        }
    }

    /// Once per state, not once per attempt.
    fn say(&mut self, ending: &Ending, delay: Duration) {
        if ending.tenant_unknown() {
            self.party.tenant_unknown();
        }
        let text = ending.to_string();
        if matches!(ending, Ending::Stopped) {
            info!("the session was closed");
        } else if matches!(ending, Ending::Renewed) {
            info!("a new session, with the new certificate");
        } else if self.said.as_ref() == Some(&text) {
            debug!("still not connected: {text}; next attempt in {delay:.1?}");
        } else {
            warn!(
                "not connected to the hub: {text}; what is served stays as it is; next attempt in {delay:.1?}"
            );
            self.said = Some(text);
        }
    }
}

/// Writes what there is to say, for as long as somebody reads. None: nobody does, and the reader knows why.
async fn write(party: &impl Party, sender: &mpsc::Sender<v1::AgentMessage>) -> Option<Ending> {
    loop {
        // Room first, words then: what is overtaken while the hub is slow is never said.
        let room = match timeout(STALL, sender.reserve()).await {
            Ok(Ok(room)) => room,
            Ok(Err(_)) => return None,
            Err(_) => return Some(Ending::Stalled),
        };
        match party.next_message(Instant::now()) {
            Err(error) => return Some(Ending::of_protocol(error)),
            Ok(Ok(message)) => room.send(message),
            Ok(Err(deadline)) => {
                drop(room);
                let due = async {
                    match deadline {
                        Some(at) => tokio::time::sleep_until(at.into()).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = party.outbound() => {}
                    () = due => {}
                    () = sender.closed() => return None,
                }
            }
        }
    }
}
