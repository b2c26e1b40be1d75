//! The audit log: one line for each admission, refusal and certificate, under the target `audit`, with field names that stay. Never a
//! token or a key; what a peer has sent is not in it, and the log escapes what it writes (`berth_common::telemetry`).

use std::net::SocketAddr;

use berth_common::identity::{Serial, TenantName};
use tracing::{info, warn};

/// One line. What is not known is left out.
#[derive(Clone, Debug, Default)]
pub struct Line<'a> {
    /// What was tried: `enroll` or `renew`.
    pub event: &'static str,
    /// Why not, or `issued`, `issued_again`.
    pub result: &'static str,
    /// Whom it is about.
    pub tenant: Option<&'a TenantName>,
    /// Who tried.
    pub remote: Option<SocketAddr>,
    /// The token's id.
    pub token: Option<&'a str>,
    /// The serial number of the certificate that was issued.
    pub serial: Option<&'a Serial>,
    /// The serial number of the certificate that was shown.
    pub former: Option<&'a Serial>,
    /// Lines like this one that went unwritten before it.
    pub unsaid: u64,
}

impl Line<'_> {
    /// Something was given.
    pub fn granted(&self) {
        let (tenant, remote) = (self.tenant.map(TenantName::as_str), self.remote());
        let (serial, former) = (
            self.serial.map(Serial::as_str),
            self.former.map(Serial::as_str),
        );
        info!(
            target: "audit",
            event = self.event, result = self.result, tenant, remote, token = self.token, serial, former,
            "certificate issued"
        );
    }

    /// Something was refused.
    pub fn refused(&self) {
        let (tenant, remote) = (self.tenant.map(TenantName::as_str), self.remote());
        let former = self.former.map(Serial::as_str);
        let unsaid = (self.unsaid > 0).then_some(self.unsaid);
        warn!(
            target: "audit",
            event = self.event, result = self.result, tenant, remote, token = self.token, former, unsaid,
            "refused"
        );
    }

    fn remote(&self) -> Option<String> {
        self.remote.map(|remote| remote.to_string())
    }
}
