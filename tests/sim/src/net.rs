//! A connection between one agent and one hub process: two ordered pipes with a window each, that can be cut, stalled and
//! made to swallow. Messages are on their way as events of the world; here is what becomes of them when they arrive.

use std::time::{Duration, Instant};

use berth_hub::tenants::Seat;
use berth_wire::v1::{AgentMessage, agent_message::Body as Up};

use crate::{agent::AgentId, op::Way};

/// How many messages fit between a writer and the other end, as in the shells.
pub(crate) const WINDOW: usize = 4;
/// A writer that could not write for so long gives the connection up, as in the shells.
pub(crate) const STALL: Duration = Duration::from_secs(15);

/// One direction.
#[derive(Debug)]
pub(crate) struct Pipe {
    /// Messages on their way.
    pub(crate) in_flight: usize,
    /// Nothing arrives before this: order is kept.
    pub(crate) busy_until: Instant,
    /// What is sent vanishes.
    pub(crate) swallows: bool,
    /// So many of the next messages vanish.
    pub(crate) loses: u8,
    /// Since when the writer waits for room.
    pub(crate) blocked_since: Option<Instant>,
    /// Whether the end that reads is still there.
    pub(crate) open: bool,
}

impl Pipe {
    fn new(now: Instant) -> Self {
        Self {
            in_flight: 0,
            busy_until: now,
            swallows: false,
            loses: 0,
            blocked_since: None,
            open: true,
        }
    }

    /// Whether the writer has room; notes since when it has none.
    pub(crate) fn has_room(&mut self, now: Instant) -> bool {
        if self.in_flight < WINDOW {
            self.blocked_since = None;
            return true;
        }
        self.blocked_since.get_or_insert(now);
        false
    }

    /// When the writer gives up.
    pub(crate) fn gives_up(&self) -> Option<Instant> {
        self.blocked_since.map(|since| since + STALL)
    }

    /// When a message that is sent now arrives; `None`: it does not.
    pub(crate) fn send(&mut self, now: Instant, latency: Duration) -> Option<Instant> {
        if self.swallows {
            return None;
        }
        if self.loses > 0 {
            self.loses -= 1;
            return None;
        }
        self.busy_until = self.busy_until.max(now + latency);
        self.in_flight += 1;
        Some(self.busy_until)
    }
}

/// What no transport loses, and what of it the protocol finds out all the same.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lost {
    /// The number of a Delta: a later one shows the gap.
    pub(crate) delta: Option<u64>,
    /// The number of a snapshot that lacks a part: its end shows that.
    pub(crate) snapshot: Option<u64>,
    /// Anything else: nothing shows it, or for a sign of life only silence does.
    pub(crate) other: bool,
}

impl Lost {
    /// A message up was lost.
    pub(crate) fn lose(&mut self, message: &AgentMessage) {
        match &message.body {
            Some(Up::Delta(delta)) => {
                self.delta.get_or_insert(delta.sequence);
            }
            Some(Up::SnapshotBegin(begin)) => self.snapshot = Some(begin.id),
            Some(Up::SnapshotPage(page)) => self.snapshot = Some(page.id),
            // A Heartbeat too: what the hub takes for silence ends the session after the faults have stopped.
            _ => self.other = true,
        }
    }

    /// A message up arrived: what it shows is mended from here on, for the answer compares everything.
    pub(crate) fn find(&mut self, message: &AgentMessage) {
        let shows = match &message.body {
            Some(Up::Delta(delta)) => self.delta.is_some_and(|lost| delta.sequence > lost),
            Some(Up::SnapshotEnd(end)) => self.snapshot == Some(end.id),
            _ => false,
        };
        if shows {
            (self.delta, self.snapshot) = (None, None);
        }
    }

    /// Whether only a new connection mends it.
    pub(crate) fn is_for_good(self) -> bool {
        self.delta.is_some() || self.snapshot.is_some() || self.other
    }
}

/// A connection.
pub(crate) struct Conn {
    pub(crate) tenant: u8,
    pub(crate) agent: AgentId,
    pub(crate) opened: Instant,
    /// The hub's end, until it is closed.
    pub(crate) seat: Option<Seat>,
    pub(crate) number: u64,
    pub(crate) up: Pipe,
    pub(crate) down: Pipe,
    /// What was lost from its middle, and has still to be found out.
    pub(crate) lost: Lost,
    /// Of the last Delta that the hub's end was given.
    pub(crate) sequence: u64,
    /// What Hello said, for the mutation that lies about it.
    pub(crate) hello_digests: Vec<u8>,
    /// A snapshot that has begun and not ended, for the mutation that makes its end up.
    pub(crate) unfinished: Option<(u64, berth_common::session::snapshot::Tally)>,
}

impl Conn {
    pub(crate) fn new(tenant: u8, agent: AgentId, seat: Seat, now: Instant) -> Self {
        Self {
            tenant,
            agent,
            opened: now,
            number: seat.number(),
            seat: Some(seat),
            up: Pipe::new(now),
            down: Pipe::new(now),
            lost: Lost::default(),
            sequence: 0,
            hello_digests: Vec::new(),
            unfinished: None,
        }
    }

    pub(crate) fn pipe(&mut self, way: Way) -> &mut Pipe {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }
}
