//! Agents and hubs that start, end, or are cut off from each other.

use std::time::Duration;

use berth_common::backoff::Cause;

use crate::{
    agent::{Agent, AgentId},
    op::Cut,
    world::{Event, World},
};

impl World {
    pub(crate) fn start_agent(&mut self, t: u8) {
        if self
            .agents
            .contains_key(&self.tenants[usize::from(t)].agent)
        {
            return;
        }
        let id = self.add_agent(t, false);
        self.tenant(t).agent = id;
    }

    pub(crate) fn add_agent(&mut self, t: u8, impostor: bool) -> AgentId {
        let id = self.next_agent;
        self.next_agent += 1;
        self.agents.insert(id, Agent::new(id, t, impostor));
        let read = Self::some(&mut self.net, 5, 300);
        self.after(read, Event::Relist(id));
        // It waits for its cluster, but not for ever.
        let dial = if self.now + read < self.tenants[usize::from(t)].source_down_until {
            Duration::from_secs(5)
        } else {
            read + Duration::from_millis(1)
        };
        // Now and then it does not wait at all.
        let dial = if self.net.u8(0..6) == 0 {
            Duration::from_millis(1)
        } else {
            dial
        };
        self.after(dial, Event::Dial(id));
        id
    }

    pub(crate) fn stop_agent(&mut self, id: AgentId, late: bool) {
        if late {
            self.delay_up(id);
        }
        self.close_agent_end(id);
        self.agents.remove(&id);
        let stale: Vec<_> = self.conns.keys().copied().collect();
        for number in stale {
            self.forget_conn(number);
        }
    }

    /// What the agent has sent arrives much later.
    fn delay_up(&mut self, id: AgentId) {
        let delay = Self::some(&mut self.net, 500, 20_000);
        let when = self.now + delay;
        let Some(number) = self.agents.get(&id).and_then(|agent| agent.conn) else {
            return;
        };
        self.postpone_up(number, when);
        if let Some(conn) = self.conns.get_mut(&number) {
            conn.up.busy_until = conn.up.busy_until.max(when);
        }
    }

    pub(crate) fn cut(&mut self, t: u8, how: Cut) -> bool {
        let id = self.tenants[usize::from(t)].agent;
        let Some(number) = self.agents.get(&id).and_then(|agent| agent.conn) else {
            return false;
        };
        match how {
            Cut::Clean => {
                if let Some(conn) = self.conns.get_mut(&number) {
                    conn.seat = None;
                }
                self.agent_lets_go(id, Cause::Lost);
            }
            Cut::HubUnaware => {
                if let Some(conn) = self.conns.get_mut(&number) {
                    conn.up.swallows = true;
                }
                self.drop_up(number);
                self.agent_lets_go(id, Cause::Lost);
            }
            Cut::Late => {
                self.delay_up(id);
                self.agent_lets_go(id, Cause::Lost);
            }
            Cut::AgentUnaware => {
                if let Some(conn) = self.conns.get_mut(&number) {
                    conn.down.swallows = true;
                    conn.up.swallows = true;
                }
                self.hub_lets_go(number, Cause::Lost);
            }
        }
        true
    }

    pub(crate) fn lose_hub(&mut self) {
        self.kill_hub();
        let numbers: Vec<_> = self.conns.keys().copied().collect();
        for number in numbers {
            let delay = Self::some(&mut self.net, 0, 1_000);
            let unaware = self.net.u8(0..6) == 0;
            let Some(conn) = self.conns.get_mut(&number) else {
                continue;
            };
            conn.up.swallows = true;
            if unaware {
                conn.down.swallows = true;
            } else {
                let at = (self.now + delay).max(conn.down.busy_until);
                self.at(at, Event::DownEnd(number, Cause::Lost));
            }
            self.forget_conn(number);
        }
    }
}
