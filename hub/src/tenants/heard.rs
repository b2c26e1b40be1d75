//! What a message of a session did: who is to be planned for it, and what there is to say of it.

use std::time::Instant;

use berth_common::{
    identity::TenantName,
    model::Generation,
    session::{
        ProtocolError,
        greeting::Greeting,
        held::{Held, Touched},
    },
    wire::{Refusal, printable},
};
use berth_wire::v1;

use super::{Fenced, Marks, Planned, Refused};

/// Why a message of a session was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// A newer session took over.
    #[error(transparent)]
    Fenced(#[from] Fenced),
    /// The session may not be.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The agent broke the stream's rules.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

/// What a message did, for the log of the session.
#[derive(Debug, Default)]
pub struct Heard {
    /// Set by Hello.
    pub greeting: Option<Greeting>,
    /// The agent lost its cluster's API server (and why), or has it back.
    pub source: Option<Result<(), String>>,
    /// What was discarded.
    pub discarded: Option<String>,
    /// Resources that could not be read, with why.
    pub refused: Vec<String>,
    /// Services have begun to be held back, for the tenant changes them again and again.
    pub restless: bool,
    /// Agents throw each other out again and again, since now.
    pub contested: bool,
    /// So many load balancers are absent now that the brake holds them, and it did not before: how many, of how many.
    pub held: Option<(usize, usize)>,
}

pub(super) fn refused_lines(refused: &[(Option<v1::Key>, Generation, Refusal)]) -> Vec<String> {
    refused
        .iter()
        .map(|(key, _, refusal)| {
            let key = key.as_ref().map(printable);
            format!("{}: {refusal}", key.unwrap_or_default())
        })
        .collect()
}

/// Marks everything that a change touched.
pub(super) fn mark(
    marks: &dyn Marks,
    tenant: &TenantName,
    held: &mut Held,
    planned: &mut Planned,
    touched: &Touched,
    now: Instant,
) {
    if touched.completed {
        for key in marks.keys(tenant) {
            held.miss(&key, now);
        }
    }
    for key in planned.heard(held, touched, now) {
        marks.service(tenant, &key);
    }
    if touched.completed {
        marks.observed(tenant);
    }
}

/// Marks all Services of a tenant.
pub(super) fn mark_all(marks: &dyn Marks, tenant: &TenantName, held: &Held) {
    for key in held.service_keys() {
        marks.service(tenant, key);
    }
}
