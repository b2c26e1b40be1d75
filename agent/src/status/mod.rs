//! What has to be written to a Service, given the newest that was seen of it, what the hub answered, and what is wrong on
//! this side. Pure, and level-triggered: the same view gives the same plan, a view in order gives none, and so unchanged
//! input writes nothing across any restart (points 3, 4, 28 to 33).

mod desired;
mod patch;
#[cfg(test)]
mod tests;

use berth_common::model::{Answer, Reason};
use k8s_openapi::jiff::Timestamp;

pub use self::patch::{finalizers_patch, status_patch};
use crate::{
    claims::{Claims, Standing},
    index::Entry,
    project::{PROGRAMMED, ResourceVersion, SeenCondition, SeenIngress},
};

/// All that a plan depends on.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// Which Services are served.
    pub claims: &'a Claims,
    /// The Service.
    pub entry: &'a Entry,
    /// What is wrong on this side.
    pub problem: Option<Reason>,
    /// Which of its annotations are not passed on, where people should know.
    pub note: Option<String>,
    /// The hub's answer to the Service as it is now.
    pub answer: Option<&'a Answer>,
    /// The hub has confirmed that there is no load balancer (any more).
    pub released: bool,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Set the finalizers, if the object is still of this version.
    Finalizers {
        /// All of them.
        finalizers: Vec<String>,
        /// Of the object that was seen.
        version: ResourceVersion,
    },
    /// Make this our part of the status; empty takes it away.
    Status {
        /// The addresses.
        ingress: Vec<SeenIngress>,
        /// The conditions.
        conditions: Vec<SeenCondition>,
    },
}

/// A write, and what to say once it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The object's UID: a namesake is never written to.
    pub uid: String,
    /// The write.
    pub step: Step,
    /// Events on the Service.
    pub notices: Vec<Notice>,
}

/// An event on a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether a person should look at it.
    pub warning: bool,
    /// One of upstream's words.
    pub reason: &'static str,
    /// For people.
    pub note: String,
}

impl Notice {
    pub(crate) fn normal(reason: &'static str, note: impl Into<String>) -> Self {
        Self {
            warning: false,
            reason,
            note: note.into(),
        }
    }

    pub(crate) fn warning(reason: &'static str, note: impl Into<String>) -> Self {
        Self {
            warning: true,
            reason,
            note: note.into(),
        }
    }
}

/// The next write that brings the Service nearer to what it should be; none if it is.
pub fn plan(view: &View<'_>, now: Timestamp) -> Option<Plan> {
    let (step, notices) = match view.entry.standing {
        Standing::Wanted => adopt(view).or_else(|| report(view, now)),
        Standing::Leaving if view.released => let_go(view),
        Standing::Leaving | Standing::Foreign => None,
    }?;
    Some(Plan {
        uid: view.entry.seen.uid.clone(),
        step,
        notices,
    })
}

/// The finalizer first: a status without it could promise an address that nobody takes back.
fn adopt(view: &View<'_>) -> Option<(Step, Vec<Notice>)> {
    let seen = &view.entry.seen;
    let finalizers = view.claims.finalizers(seen, true)?;
    let is_new = finalizers.len() > seen.finalizers.len();
    let note = if view.entry.rebound {
        "Ensuring load balancer; it is that of the former Service of this name"
    } else {
        "Ensuring load balancer"
    };
    let notices = is_new.then(|| Notice::normal("EnsuringLoadBalancer", note));
    Some((
        Step::Finalizers {
            finalizers,
            version: seen.version.clone(),
        },
        notices.into_iter().collect(),
    ))
}

fn report(view: &View<'_>, now: Timestamp) -> Option<(Step, Vec<Notice>)> {
    let seen = &view.entry.seen;
    let desired = desired::desired(view)?;
    if desired.is_met_by(seen) {
        return None;
    }
    let notices = desired.notices(seen);
    let conditions = desired
        .conditions
        .into_iter()
        .map(|condition| {
            let since = seen
                .condition(&condition.type_)
                .filter(|old| old.status == condition.status)
                .map_or(now, |old| old.since);
            SeenCondition { since, ..condition }
        })
        .collect();
    Some((
        Step::Status {
            ingress: desired.ingress,
            conditions,
        },
        notices,
    ))
}

/// The status first, unless it alone tells whose the finalizer is. What is being deleted keeps its status.
fn let_go(view: &View<'_>) -> Option<(Step, Vec<Notice>)> {
    let seen = &view.entry.seen;
    if seen.status.ours && !seen.deleting && !view.claims.needs_status(seen) {
        let clear = Step::Status {
            ingress: Vec::new(),
            conditions: Vec::new(),
        };
        return Some((clear, Vec::new()));
    }
    let finalizers = view.claims.finalizers(seen, false)?;
    Some((
        Step::Finalizers {
            finalizers,
            version: seen.version.clone(),
        },
        vec![Notice::normal(
            "DeletedLoadBalancer",
            "Deleted load balancer",
        )],
    ))
}

/// Whether the Service says of itself that its load balancer works.
pub fn is_programmed(entry: &Entry) -> bool {
    entry
        .seen
        .condition(PROGRAMMED)
        .is_some_and(|condition| condition.status)
}
