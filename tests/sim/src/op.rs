//! What happens to the simulated world from outside: people's doings and faults, each small and complete in itself, so
//! that a schedule can be shrunk by leaving some of them out. Everything here follows from the schedule's seed alone.

use std::time::Duration;

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// The most tenants of a schedule.
pub(crate) const TENANTS: u8 = 3;
/// How many Services a tenant may have: enough for the brake.
pub(crate) const KEYS: u8 = 8;
/// How many nodes a tenant may have.
pub(crate) const NODES: u8 = 3;

/// A direction on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Way {
    /// From the agent to the hub.
    Up,
    /// From the hub to the agent.
    Down,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cut {
    /// Both ends notice at once, and what was on its way is lost.
    Clean,
    /// Only the agent notices; the hub's end stays open and hears nothing more.
    HubUnaware,
    /// Only the agent notices; what was on its way to the hub arrives seconds later, when a newer session may be there.
    Late,
    /// Only the hub notices; the agent's end stays open and hears nothing more.
    AgentUnaware,
}

/// A kind of managed object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Kind {
    Service,
    Record,
    Slice,
}

/// The version of a Service's spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Version {
    /// In order; the number tells one from another.
    Good(u8),
    /// The planner refuses it.
    Refused,
    /// The hub cannot read it.
    Unreadable,
    /// The management API rejects it.
    Rejected,
}

/// One thing that happens. `t` is a tenant, `k` a Service, `n` a node; times are virtual milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op")]
#[allow(missing_docs)]
pub enum Op {
    // People in the tenant's cluster.
    Apply {
        t: u8,
        k: u8,
        v: Version,
    },
    Delete {
        t: u8,
        k: u8,
    },
    /// Without waiting for finalizers.
    ForceDelete {
        t: u8,
        k: u8,
    },
    NodeUp {
        t: u8,
        n: u8,
    },
    NodeDown {
        t: u8,
        n: u8,
    },
    Backup {
        t: u8,
    },
    /// The cluster's state as it was at the backup (or at the very beginning), found out by a re-read.
    Restore {
        t: u8,
    },
    /// Another cluster answers in place of the tenant's.
    Swap {
        t: u8,
    },
    SwapBack {
        t: u8,
    },
    /// The operator binds the identity to the cluster that is there now.
    Rebind {
        t: u8,
    },
    // Processes.
    SourceLost {
        t: u8,
        ms: u32,
    },
    AgentRestart {
        t: u8,
        ms: u32,
    },
    /// A second agent of the same cluster runs for a while.
    Twin {
        t: u8,
        ms: u32,
    },
    /// An agent of another cluster comes with this tenant's certificate.
    Impostor {
        t: u8,
    },
    HubKill {
        ms: u32,
    },
    HubDrain,
    // The network.
    CutOff {
        t: u8,
        how: Cut,
    },
    /// The connection is cut right behind so many further messages of the agent, which arrive.
    CutBehind {
        t: u8,
        count: u8,
    },
    HalfOpen {
        t: u8,
        way: Way,
    },
    /// Messages vanish from the middle of a stream: no transport does that, and rule 4 holds all the same.
    Lose {
        t: u8,
        way: Way,
        count: u8,
    },
    Stall {
        t: u8,
        way: Way,
        ms: u32,
    },
    Slow {
        t: u8,
        ms: u32,
    },
    // The management API.
    ApiDown {
        ms: u32,
    },
    ApiSlow {
        ms: u32,
    },
    FailWrites {
        count: u8,
    },
    /// Writes are done, and nobody hears of it.
    LoseReplies {
        count: u8,
    },
    WatchLag {
        ms: u32,
    },
    WatchBreak {
        kind: Kind,
        ms: u32,
    },
    /// Somebody deletes a managed object.
    Vandal {
        t: u8,
        k: u8,
        kind: Kind,
    },
    /// Somebody changes the ports of a managed Service.
    Drift {
        t: u8,
        k: u8,
    },
    // The allocator.
    AllocatorDown {
        ms: u32,
    },
    /// It forgets what it gave, and is left with what Services are pinned to.
    AllocatorAmnesia,
    ReleaseHeld {
        t: u8,
    },
    // The Tenant objects.
    /// The operator sets the quotas, and whether what is beyond them is withdrawn.
    Quota {
        t: u8,
        load_balancers: Option<u8>,
        ports: Option<u8>,
        enforce: bool,
    },
    /// The operator deletes the Tenant, under this reclaim policy.
    DeleteTenant {
        t: u8,
        retain: bool,
    },
    /// The Tenant is gone, and the hub's finalizer was taken off it by hand before.
    LoseTenant {
        t: u8,
    },
    /// A Tenant of that name again, if there is none.
    CreateTenant {
        t: u8,
    },
    /// The operator says that a deletion is meant.
    ConfirmDeletion {
        t: u8,
    },
}

impl Op {
    /// The word under which it is counted.
    pub fn name(&self) -> String {
        let text = format!("{self:?}");
        let word = text.split([' ', '{']).next().unwrap_or_default();
        match self {
            Self::CutOff { how, .. } => format!("{word}.{how:?}"),
            Self::HalfOpen { way, .. } | Self::Lose { way, .. } | Self::Stall { way, .. } => {
                format!("{word}.{way:?}")
            }
            _ => word.into(),
        }
    }
}

/// A history from outside, and the seed of everything that is left to chance besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Of latencies and the like.
    pub seed: u64,
    /// How many tenants there are.
    pub tenants: u8,
    /// Managed Services have a finalizer, so that their deletion takes time.
    pub slow_deletion: bool,
    /// What happens, each so long after the one before.
    pub ops: Vec<(Duration, Op)>,
}

impl Schedule {
    /// The schedule of a seed.
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let tenants = rng.u8(1..=TENANTS);
        let mut schedule = Self {
            seed,
            tenants,
            slow_deletion: rng.u8(0..4) == 0,
            ops: Vec::new(),
        };
        let calm = Duration::from_millis(20);
        for t in 0..tenants {
            for n in 0..rng.u8(0..=2) {
                schedule.ops.push((calm, Op::NodeUp { t, n }));
            }
            for k in 0..rng.u8(0..=KEYS) {
                let v = Version::Good(rng.u8(0..3));
                schedule.ops.push((calm, Op::Apply { t, k, v }));
            }
            // One is bounded in load balancers, another in ports.
            if rng.bool() {
                let op = quota(&mut rng, t);
                let at = rng.usize(0..=schedule.ops.len());
                schedule.ops.insert(at, (calm, op));
            }
        }
        for _ in 0..rng.usize(4..36) {
            let after = delay(&mut rng);
            let op = draw(&mut rng, tenants);
            schedule.ops.push((after, op));
            if let Op::DeleteTenant { t, .. } | Op::LoseTenant { t } = op {
                departure(&mut rng, t, &mut schedule.ops);
            }
            // What is just being said is the hardest to lose.
            if rng.u8(0..10) == 0 {
                let t = rng.u8(0..tenants);
                let k = rng.u8(0..KEYS);
                let how = [Cut::Late, Cut::HubUnaware][rng.usize(0..2)];
                schedule.ops.push((Duration::ZERO, speech(&mut rng, t, k)));
                schedule.ops.push((Duration::ZERO, Op::CutOff { t, how }));
                // And what is said of the same thing right after is the easiest to be taken back by it.
                if rng.bool() {
                    let after = Duration::from_millis(rng.u64(1..2_000));
                    schedule.ops.push((after, speech(&mut rng, t, k)));
                }
            }
        }
        schedule
    }
}

fn delay(rng: &mut Rng) -> Duration {
    let ms = match rng.u8(0..16) {
        0..=4 => 0,
        5..=9 => rng.u64(1..60),
        10..=12 => rng.u64(60..3_000),
        13 | 14 => rng.u64(3_000..20_000),
        _ => rng.u64(20_000..70_000),
    };
    Duration::from_millis(ms)
}

fn draw(rng: &mut Rng, tenants: u8) -> Op {
    let t = rng.u8(0..tenants);
    let k = rng.u8(0..KEYS);
    let n = rng.u8(0..NODES);
    let ms = match rng.u8(0..4) {
        0 => rng.u32(1..200),
        1 | 2 => rng.u32(200..5_000),
        _ => rng.u32(5_000..45_000),
    };
    let count = rng.u8(1..4);
    let way = if rng.bool() { Way::Up } else { Way::Down };
    let kind = [Kind::Service, Kind::Record, Kind::Slice][rng.usize(0..3)];
    match rng.u8(0..112) {
        100..=105 => quota(rng, t),
        106..=108 => Op::DeleteTenant {
            t,
            retain: rng.bool(),
        },
        109 => Op::LoseTenant { t },
        110 => Op::CreateTenant { t },
        111 => Op::ConfirmDeletion { t },
        0..=19 => Op::Apply {
            t,
            k,
            v: version(rng),
        },
        20..=27 => Op::Delete { t, k },
        28..=30 => Op::ForceDelete { t, k },
        31..=33 => Op::NodeUp { t, n },
        34 | 35 => Op::NodeDown { t, n },
        36 => Op::Backup { t },
        37..=39 => Op::Restore { t },
        40 | 41 => Op::Swap { t },
        42 => Op::SwapBack { t },
        43 => Op::Rebind { t },
        44..=46 => Op::SourceLost { t, ms },
        47..=51 => Op::AgentRestart { t, ms },
        52 => Op::Twin { t, ms },
        53 | 54 => Op::Impostor { t },
        55..=59 => Op::HubKill { ms: ms.min(20_000) },
        60 => Op::HubDrain,
        61..=67 => Op::CutOff {
            t,
            how: [Cut::Clean, Cut::HubUnaware, Cut::Late, Cut::AgentUnaware][rng.usize(0..4)],
        },
        68 => Op::HalfOpen { t, way },
        69 | 70 => Op::CutBehind {
            t,
            count: rng.u8(1..7),
        },
        71..=73 => Op::Lose { t, way, count },
        74..=76 => Op::Stall { t, way, ms },
        77 | 78 => Op::Slow {
            t,
            ms: ms.min(4_000),
        },
        79..=81 => Op::ApiDown { ms },
        82 => Op::ApiSlow { ms: ms.min(3_000) },
        83 | 84 => Op::FailWrites { count },
        85 | 86 => Op::LoseReplies { count },
        87 => Op::WatchLag { ms: ms.min(8_000) },
        88 | 89 => Op::WatchBreak { kind, ms },
        90..=92 => Op::Vandal { t, k, kind },
        93 => Op::Drift { t, k },
        94 | 95 => Op::AllocatorDown { ms },
        96 | 97 => Op::AllocatorAmnesia,
        98 => Op::ReleaseHeld { t },
        _ => Op::Delete { t, k },
    }
}

/// What the operator lets a tenant have: the first of load balancers, the others of ports, at times of both, or of none.
fn quota(rng: &mut Rng, t: u8) -> Op {
    let most = rng.u8(0..=KEYS);
    let (both, none) = (rng.u8(0..6) == 0, rng.u8(0..6) == 0);
    let some = |it: bool, most: u8| Some(most).filter(|_| (it || both) && !none);
    Op::Quota {
        t,
        load_balancers: some(t == 0, most),
        ports: some(t != 0, rng.u8(0..=2 * KEYS)),
        enforce: rng.u8(0..3) == 0,
    }
}

/// What may come while a Tenant leaves, or after it.
fn departure(rng: &mut Rng, t: u8, ops: &mut Vec<(Duration, Op)>) {
    let later = |rng: &mut Rng| Duration::from_millis(rng.u64(0..9_000));
    for _ in 0..rng.u8(0..3) {
        let op = match rng.u8(0..4) {
            0 => Op::ConfirmDeletion { t },
            1 => {
                let k = rng.u8(0..KEYS);
                speech(rng, t, k)
            }
            _ => Op::HubKill {
                ms: rng.u32(1..3_000),
            },
        };
        ops.push((later(rng), op));
    }
    if rng.bool() {
        // Some find the former one still there.
        let wait = later(rng) * 2;
        ops.push((wait, Op::CreateTenant { t }));
    }
}

/// Something of which the agent will speak at once.
fn speech(rng: &mut Rng, t: u8, k: u8) -> Op {
    match rng.u8(0..4) {
        0 => Op::Delete { t, k },
        1 => Op::NodeUp {
            t,
            n: rng.u8(0..NODES),
        },
        _ => Op::Apply {
            t,
            k,
            v: version(rng),
        },
    }
}

fn version(rng: &mut Rng) -> Version {
    match rng.u8(0..12) {
        0 => Version::Refused,
        1 => Version::Unreadable,
        2 => Version::Rejected,
        // Those from four on have more than one port.
        3 | 4 => Version::Good(rng.u8(4..12)),
        _ => Version::Good(rng.u8(0..3)),
    }
}
