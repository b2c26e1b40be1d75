//! Connections: dialling, messages on their way, ends that are noticed or not. What the shells of agent and hub do with
//! their streams happens here, and the bugs that are made by bending what passes by.

use std::time::{Duration, Instant};

use berth_common::{
    backoff::Cause,
    model::{Generation, Key, Outcome},
    session::agent::Event as News,
    session::snapshot::Tally,
    wire::{answer_from_wire, key_from_wire},
};
use berth_hub::{
    objects::Id,
    tenants::{Credential, Ending, Next, Rejected},
};
use berth_wire::v1::{self, agent_message::Body as Up, change::Change, hub_message::Body as Down};

use crate::{
    agent::{AgentId, ConnId},
    cluster::{Cluster, key_number},
    ledger::{FENCED, Violation, broken},
    mutation::Mutation,
    net::Conn,
    words::{brief_down, brief_up},
    world::{Event, World},
};

/// As in the agent's link: another agent has our identity.
const AFTER_FENCING: Duration = Duration::from_secs(30);

impl World {
    pub(crate) fn dial(&mut self, id: AgentId) {
        let ready = self.hub.as_ref().filter(|hub| hub.is_ready());
        let Some(agent) = self.agents.get_mut(&id) else {
            return;
        };
        if agent.conn.is_some() {
            return;
        }
        let name = &self.tenants[usize::from(agent.tenant)].name;
        let seat = ready.map(|hub| hub.tenants.open(name, Credential::default(), self.now));
        let Some(Ok(seat)) = seat else {
            let delay = agent.delay(Cause::Lost, self.now, &mut self.net);
            self.after(delay, Event::Dial(id));
            return;
        };
        let conn = self.next_conn;
        self.next_conn += 1;
        agent.conn = Some(conn);
        agent.session.connected(self.now);
        let tenant = agent.tenant;
        self.stats.effect("session");
        self.note(|_| format!("agent {id} of tenant {tenant} opens connection {conn}"));
        self.conns
            .insert(conn, Conn::new(tenant, id, seat, self.now));
    }

    fn latency(&mut self, t: u8) -> Duration {
        let usual = Self::some(&mut self.net, 1, 20);
        let (until, more) = self.tenants[usize::from(t)].slow;
        if self.now < until {
            usual + more
        } else {
            usual
        }
    }

    /// The agents say what they have to say.
    pub(crate) fn pump_agents(&mut self) -> Result<Option<Instant>, Violation> {
        let mut next: Option<Instant> = None;
        let ids: Vec<AgentId> = self.agents.keys().copied().collect();
        for id in ids {
            while let Some((conn, word)) = self.agent_word(id) {
                match word {
                    Word::Say(message) => {
                        self.send_up(conn, *message);
                        self.cut_behind(id);
                    }
                    Word::End(cause) => self.agent_lets_go(id, cause),
                    Word::Wait(at) => {
                        next = [next, at].into_iter().flatten().min();
                        break;
                    }
                }
            }
        }
        Ok(next)
    }

    fn agent_word(&mut self, id: AgentId) -> Option<(ConnId, Word<v1::AgentMessage>)> {
        let agent = self.agents.get_mut(&id)?;
        let number = agent.conn?;
        let conn = self.conns.get_mut(&number)?;
        let word = if !conn.up.has_room(self.now) {
            match conn.up.gives_up() {
                Some(at) if at <= self.now => {
                    self.stats.effect("agent gave up a stalled connection");
                    Word::End(Cause::Lost)
                }
                at => Word::Wait(at),
            }
        } else if self.mutation != Some(Mutation::SilenceIgnored)
            && agent.session.check(self.now).is_err()
        {
            self.stats.effect("agent found the hub silent");
            Word::End(Cause::Lost)
        } else {
            match agent.session.next_message(self.now) {
                Some(message) => Word::Say(Box::new(message)),
                None if self.mutation == Some(Mutation::SilenceIgnored) => {
                    Word::Wait(agent.session.deadline().filter(|at| *at > self.now))
                }
                None => Word::Wait(agent.session.deadline()),
            }
        };
        Some((number, word))
    }

    fn send_up(&mut self, number: ConnId, mut message: v1::AgentMessage) {
        let t = self.conns[&number].tenant;
        let latency = self.latency(t);
        self.note(|_| format!("  c{number} up   {}", brief_up(&message)));
        if !matches!(message.body, Some(Up::Heartbeat(_))) {
            self.words += 1;
        }
        self.bend_up(t, &mut message);
        let Some(conn) = self.conns.get_mut(&number) else {
            return;
        };
        if let Some(Up::Hello(hello)) = &message.body {
            conn.hello_digests = hello.digests.to_vec();
        }
        if let Some(at) = conn.up.send(self.now, latency) {
            self.at(at, Event::Up(number, Box::new(message)));
        } else {
            conn.lost.lose(&message);
            self.stats.effect("message lost on its way up");
        }
    }

    /// The agent has said something: perhaps that was the last that came through.
    fn cut_behind(&mut self, id: AgentId) {
        let Some(tenant) = self.tenants.iter_mut().find(|tenant| tenant.agent == id) else {
            return;
        };
        let Some(left) = tenant.cut_behind.take() else {
            return;
        };
        if left > 1 {
            tenant.cut_behind = Some(left - 1);
        } else {
            self.agent_lets_go(id, Cause::Lost);
        }
    }

    fn bend_up(&mut self, t: u8, message: &mut v1::AgentMessage) {
        match (self.mutation, &mut message.body) {
            (Some(Mutation::OtherClusterAccepted), Some(Up::Hello(hello))) => {
                let bound = &self.tenants[usize::from(t)].bound;
                hello.cluster_uid.clone_from(bound);
            }
            (Some(Mutation::LostTombstone), Some(Up::Delta(delta))) => delta
                .changes
                .retain(|change| !matches!(change.change, Some(Change::Delete(_)))),
            (Some(Mutation::LostUpsert), Some(Up::Delta(delta))) => delta
                .changes
                .retain(|change| !matches!(change.change, Some(Change::Upsert(_)))),
            _ => {}
        }
    }

    pub(crate) fn arrive_up(
        &mut self,
        number: ConnId,
        message: v1::AgentMessage,
    ) -> Result<(), Violation> {
        let Some(conn) = self.conns.get_mut(&number) else {
            return Ok(());
        };
        conn.up.in_flight = conn.up.in_flight.saturating_sub(1);
        note_unfinished(&mut conn.unfinished, &message);
        conn.lost.find(&message);
        if let Some(Up::Delta(delta)) = &message.body {
            conn.sequence = delta.sequence;
        }
        let (t, opened) = (conn.tenant, conn.opened);
        let Some(seat) = self.conns.get(&number).and_then(|conn| conn.seat.as_ref()) else {
            return Ok(());
        };
        let Some(hub) = &self.hub else {
            return Ok(());
        };
        let name = &self.tenants[usize::from(t)].name;
        let newest = self.newest.get(&t).copied();
        let fenced = newest.is_some_and(|(_, newest)| newest > seat.number());
        let before = fenced.then(|| self.ledger.holding(&hub.tenants, t));
        let heartbeat = matches!(message.body, Some(Up::Heartbeat(_)));
        let result = seat.receive(message.clone(), self.now);
        if fenced {
            self.stats.effect("message of a fenced session");
            if self.mutation == Some(Mutation::FenceIgnored) {
                through_the_newest(&self.conns, newest, message, self.now);
            }
            if result.is_ok() || before != Some(self.ledger.holding(&hub.tenants, t)) {
                let what = format!(
                    "session {} of {name} is not the newest",
                    self.conns[&number].number
                );
                return Err(broken(FENCED, what));
            }
        }
        match result {
            Ok(heard) => {
                if heard.discarded.is_some() {
                    self.stats.effect("message discarded");
                }
                if heard.greeting.is_some() {
                    self.newest.insert(t, (number, self.conns[&number].number));
                }
                if !heartbeat {
                    self.ledger.heard(&hub.tenants, t, opened, self.now)?;
                }
            }
            Err(rejected) => {
                let cause = match &rejected {
                    Rejected::Fenced(_) => Cause::RetryAfter(AFTER_FENCING),
                    Rejected::Refused(_) | Rejected::Protocol(_) => Cause::Lost,
                };
                self.stats.effect(match rejected {
                    Rejected::Fenced(_) => "session fenced",
                    Rejected::Refused(_) => "session refused",
                    Rejected::Protocol(_) => "session ended for its protocol",
                });
                self.hub_lets_go(number, cause);
            }
        }
        Ok(())
    }

    /// The agent's end was closed in an orderly way, or the network said so.
    pub(crate) fn end_up(&mut self, number: ConnId) -> Result<(), Violation> {
        let Some(conn) = self.conns.get_mut(&number) else {
            return Ok(());
        };
        if self.mutation == Some(Mutation::UnverifiedEnd)
            && let (Some(seat), Some((id, tally))) = (&conn.seat, conn.unfinished.take())
        {
            let end = v1::AgentMessage {
                body: Some(Up::SnapshotEnd(tally.end(id))),
            };
            let (t, opened) = (conn.tenant, conn.opened);
            if seat.receive(end, self.now).is_ok()
                && let Some(hub) = &self.hub
            {
                self.ledger.heard(&hub.tenants, t, opened, self.now)?;
            }
        }
        if let Some(conn) = self.conns.get_mut(&number) {
            conn.seat = None;
        }
        self.forget_conn(number);
        Ok(())
    }

    /// The hub's sessions say what they have to say.
    pub(crate) fn pump_seats(&mut self) -> Result<Option<Instant>, Violation> {
        let mut next: Option<Instant> = None;
        let numbers: Vec<ConnId> = self.conns.keys().copied().collect();
        for number in numbers {
            while let Some(word) = self.seat_word(number) {
                match word {
                    Word::Say(message) => self.send_down(number, *message)?,
                    Word::End(cause) => self.hub_lets_go(number, cause),
                    Word::Wait(at) => {
                        next = [next, at].into_iter().flatten().min();
                        break;
                    }
                }
            }
        }
        Ok(next)
    }

    fn seat_word(&mut self, number: ConnId) -> Option<Word<v1::HubMessage>> {
        let conn = self.conns.get_mut(&number)?;
        let seat = conn.seat.as_ref()?;
        if !conn.down.has_room(self.now) {
            return Some(match conn.down.gives_up() {
                Some(at) if at <= self.now => {
                    self.stats.effect("hub gave up a stalled connection");
                    Word::End(Cause::Lost)
                }
                at => Word::Wait(at),
            });
        }
        Some(match seat.next(self.now) {
            Next::Message(message) => Word::Say(message),
            Next::Wait(at) => Word::Wait(Some(at)),
            Next::End(Ending::Fenced) => {
                self.stats.effect("session fenced");
                Word::End(Cause::RetryAfter(AFTER_FENCING))
            }
            Next::End(Ending::Refused(_)) => Word::End(Cause::Lost),
            Next::End(Ending::Protocol(_)) => {
                self.stats.effect("hub found the agent silent");
                Word::End(Cause::Lost)
            }
        })
    }

    fn send_down(&mut self, number: ConnId, mut message: v1::HubMessage) -> Result<(), Violation> {
        let t = self.conns[&number].tenant;
        self.note(|_| format!("  c{number} down {}", brief_down(&message)));
        if !matches!(message.body, Some(Down::Heartbeat(_))) {
            self.words += 1;
        }
        if let (Some(Down::Answers(answers)), Some(hub)) = (&message.body, &self.hub) {
            for answer in &answers.answers {
                let Ok((Key::Service(key), answer)) = answer_from_wire(answer) else {
                    continue;
                };
                let Some(k) = key_number(&key) else { continue };
                let id = Id::new(self.tenants[usize::from(t)].name.clone(), key);
                let rests = hub.cache.observed(&id).rests();
                self.ledger
                    .emitted(t, k, &answer, &hub.tenants, rests, &self.management)?;
            }
        }
        let latency = self.latency(t);
        let lost = match (self.mutation, &mut message.body) {
            (Some(Mutation::NoResync), Some(Down::ResyncRequired(_))) => true,
            (Some(Mutation::LostAnswers), Some(Down::Answers(_))) => self.net.u8(0..3) == 0,
            (Some(Mutation::DigestsLie), Some(Down::Welcome(welcome))) => {
                let hello = &self.conns[&number].hello_digests;
                if !hello.is_empty() {
                    welcome.digests = hello.clone().into();
                }
                false
            }
            _ => false,
        };
        let Some(conn) = self.conns.get_mut(&number) else {
            return Ok(());
        };
        if lost || !conn.down.open {
            return Ok(());
        }
        if let Some(at) = conn.down.send(self.now, latency) {
            self.at(at, Event::Down(number, Box::new(message)));
        } else {
            conn.lost.other = true;
            self.stats.effect("message lost on its way down");
        }
        Ok(())
    }

    pub(crate) fn arrive_down(
        &mut self,
        number: ConnId,
        mut message: v1::HubMessage,
    ) -> Result<(), Violation> {
        let Some(conn) = self.conns.get_mut(&number) else {
            return Ok(());
        };
        conn.down.in_flight = conn.down.in_flight.saturating_sub(1);
        let (id, t) = (conn.agent, conn.tenant);
        let Some(agent) = self.agents.get_mut(&id).filter(|a| a.conn == Some(number)) else {
            return Ok(());
        };
        if self.mutation == Some(Mutation::OldAnswerWins)
            && let Some(Down::Answers(answers)) = &mut message.body
        {
            for answer in &mut answers.answers {
                let key = answer.key.as_ref().and_then(|key| key_from_wire(key).ok());
                let current = key.and_then(|key| agent.session.generation(&key));
                if answer.outcome != i32::from(v1::Outcome::Deleted) {
                    answer.generation = current.map_or(answer.generation, |g| g.0);
                }
            }
        }
        let news = match agent.session.received(message, self.now) {
            Ok(news) => news,
            Err(error) => {
                self.note(|_| format!("agent {id}: {error}"));
                self.stats.effect("agent ended a session for its protocol");
                self.agent_lets_go(id, Cause::Lost);
                return Ok(());
            }
        };
        for event in news {
            match event {
                News::Welcomed {
                    reconnect_spread, ..
                } => agent.spread = Some(reconnect_spread),
                News::Waiting { .. } => self.stats.effect("agent waits for its turn"),
                News::Synced => {
                    agent.synced_since.get_or_insert(self.now);
                }
                News::Answer(Key::Service(key), answer) => {
                    let Some(k) = key_number(&key) else { continue };
                    if answer.outcome != Outcome::Deleted && !agent.impostor {
                        self.ledger.received(t, k, &answer)?;
                    }
                    agent.answered(k, answer);
                    if !agent.impostor {
                        let tenant = &mut self.tenants[usize::from(t)];
                        if !tenant.swapped && agent.reading && agent.write(&mut tenant.cluster, k) {
                            self.ledger.truth(t, k, false, self.now);
                            self.seen_gone.push((t, k));
                        }
                    }
                }
                News::Answer(Key::Node(_), _) => {}
                News::Drain { within, .. } => {
                    let delay = within.mul_f64(self.net.f64());
                    self.drained = Some((id, delay));
                }
                // No authority signs here.
                News::Reissue { .. } => {}
                News::Ignored(_) => self.stats.effect("message ignored"),
            }
        }
        for (t, k) in std::mem::take(&mut self.seen_gone) {
            self.service_gone(t, k);
        }
        if let Some((id, delay)) = self.drained.take() {
            self.stats.effect("agent drained");
            self.close_agent_end(id);
            self.after(delay, Event::Dial(id));
        }
        Ok(())
    }

    /// The hub's end was closed, or the network said so.
    pub(crate) fn end_down(&mut self, number: ConnId, cause: Cause) {
        let Some(conn) = self.conns.get(&number) else {
            return;
        };
        let id = conn.agent;
        if self.agents.get(&id).is_some_and(|a| a.conn == Some(number)) {
            self.agent_lets_go(id, cause);
        }
    }

    /// The agent's session is over; it will be back.
    pub(crate) fn agent_lets_go(&mut self, id: AgentId, cause: Cause) {
        self.close_agent_end(id);
        let Some(agent) = self.agents.get_mut(&id) else {
            return;
        };
        if agent.impostor {
            self.agents.remove(&id);
            return;
        }
        let delay = agent.delay(cause, self.now, &mut self.net);
        self.note(|_| format!("agent {id} lost its session, back in {delay:?}"));
        self.after(delay, Event::Dial(id));
    }

    /// The agent's end of its connection is closed; the other end hears of it behind everything that was sent.
    pub(crate) fn close_agent_end(&mut self, id: AgentId) {
        let Some(agent) = self.agents.get_mut(&id) else {
            return;
        };
        agent.session.disconnected();
        let Some(number) = agent.conn.take() else {
            return;
        };
        let Some(conn) = self.conns.get_mut(&number) else {
            return;
        };
        conn.down.open = false;
        let (at, heard) = (
            conn.up.busy_until.max(self.now),
            !conn.up.swallows && conn.seat.is_some(),
        );
        if heard {
            self.at(at, Event::UpEnd(number));
        }
        self.forget_conn(number);
    }

    /// The hub ends a session.
    pub(crate) fn hub_lets_go(&mut self, number: ConnId, cause: Cause) {
        let Some(conn) = self.conns.get_mut(&number) else {
            return;
        };
        conn.seat = None;
        let at = conn.down.busy_until.max(self.now) + Duration::from_millis(1);
        if conn.down.open && !conn.down.swallows {
            self.at(at, Event::DownEnd(number, cause));
        }
        self.forget_conn(number);
    }

    /// A connection of which neither end is left.
    pub(crate) fn forget_conn(&mut self, number: ConnId) {
        let Some(conn) = self.conns.get(&number) else {
            return;
        };
        let used = self
            .agents
            .get(&conn.agent)
            .is_some_and(|agent| agent.conn == Some(number));
        if conn.seat.is_none() && !used {
            self.conns.remove(&number);
        }
    }

    /// The cluster that a tenant's agents can read now.
    pub(crate) fn readable(&self, t: u8, impostor: bool) -> &Cluster {
        let tenant = &self.tenants[usize::from(t)];
        if impostor || tenant.swapped {
            &tenant.other
        } else {
            &tenant.cluster
        }
    }
}

/// What a writer does next.
enum Word<M> {
    Say(Box<M>),
    Wait(Option<Instant>),
    End(Cause),
}

fn note_unfinished(unfinished: &mut Option<(u64, Tally)>, message: &v1::AgentMessage) {
    match &message.body {
        Some(Up::SnapshotBegin(begin)) => *unfinished = Some((begin.id, Tally::default())),
        Some(Up::SnapshotPage(page)) => {
            if let Some((_, tally)) = unfinished {
                for resource in &page.resources {
                    let key = resource.key.clone().unwrap_or_default();
                    tally.add(&key, Generation(resource.generation));
                }
            }
        }
        Some(Up::SnapshotEnd(_)) => *unfinished = None,
        _ => {}
    }
}

/// What the fence would have kept out.
fn through_the_newest(
    conns: &std::collections::BTreeMap<ConnId, Conn>,
    newest: Option<(ConnId, u64)>,
    mut message: v1::AgentMessage,
    now: Instant,
) {
    let Some(conn) = newest.and_then(|(number, _)| conns.get(&number)) else {
        return;
    };
    if let Some(Up::Delta(delta)) = &mut message.body {
        delta.sequence = conn.sequence + 1;
    }
    if let (Some(seat), false) = (&conn.seat, matches!(message.body, Some(Up::Hello(_)))) {
        let _ = seat.receive(message, now);
    }
}
