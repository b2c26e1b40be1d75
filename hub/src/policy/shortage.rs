//! Why a Service has no room in its tenant's quotas, in words. They name no figure that other Services' comings and goings change,
//! so that who waits is told once.

use berth_common::wire::Refusal;

/// The reason of the conditions.
pub const QUOTA_EXCEEDED: &str = "QuotaExceeded";

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Load balancers.
    LoadBalancers {
        /// So many the tenant may have.
        most: usize,
        /// Some of them are kept for Services that were deleted.
        reserved: bool,
        /// It had one, which goes.
        withdrawn: bool,
    },
    /// Ports of all load balancers.
    Ports {
        /// So many the tenant may have.
        most: usize,
        /// So many the Service has.
        wanted: usize,
        /// It had a load balancer, which goes.
        withdrawn: bool,
    },
}

impl Shortage {
    /// The value of the label `quota` of the metric that counts them.
    pub fn label(self) -> &'static str {
        match self {
            Self::LoadBalancers { .. } => "load_balancers",
            Self::Ports { .. } => "ports",
        }
    }

    /// Whether what the Service had is taken away.
    pub fn is_withdrawal(self) -> bool {
        match self {
            Self::LoadBalancers { withdrawn, .. } | Self::Ports { withdrawn, .. } => withdrawn,
        }
    }

    /// As it is told.
    pub fn refusal(self) -> Refusal {
        let (field, what) = match self {
            Self::LoadBalancers { most, reserved, .. } => {
                let some = match reserved {
                    true => {
                        ", some of them kept for Services that were deleted (reclaimPolicy Retain)"
                    }
                    false => "",
                };
                let what = format!(
                    "{most} load balancers is what this cluster may have, and it has them{some}: delete a Service that is needed \
                     no more, and this one is served by itself, or ask the operator (quotas.loadBalancers)"
                );
                ("spec.type", what)
            }
            Self::Ports { most, wanted, .. } => {
                let what = format!(
                    "the Service has {wanted} ports, which is more than is left of the {most} that all load balancers of this cluster \
                     may have together: use fewer, here or elsewhere, or ask the operator (quotas.ports)"
                );
                ("spec.ports", what)
            }
        };
        let withdrawn = match self.is_withdrawal() {
            true => "it has no load balancer any more, for there is no room for it: ",
            false => "",
        };
        Refusal {
            field: field.into(),
            reason: QUOTA_EXCEEDED,
            message: format!("{withdrawn}{what}"),
        }
    }
}
