//! How a session can end, what a person is told about it, and what follows for the next attempt.

use std::time::Duration;

use berth_common::{
    backoff::Cause,
    session::{ProtocolError, REASON_TRAILER, SILENCE, TENANT_UNKNOWN},
};
use tonic::{Code, Status};

use crate::dial::{DialError, Fate, root};

/// The standard trailer by which a gRPC server says when to come back.
const PUSHBACK: &str = "grpc-retry-pushback-ms";
/// Another agent has our identity: if both came back at once, they would throw each other out for ever.
const AFTER_FENCING: Duration = Duration::from_secs(30);

/// How a session ended, or why there was none.
#[derive(Debug, thiserror::Error)]
pub enum Ending {
    /// This agent is stopping.
    #[error("this agent is stopping")]
    Stopped,
    /// There was no connection.
    #[error("{0}")]
    Unreachable(DialError),
    /// The hub ended the stream without a word.
    #[error("the hub closed the session")]
    Closed,
    /// The hub asked us to come back later.
    #[error("the hub asked to reconnect ({reason})")]
    Drained {
        /// Within this time.
        within: Duration,
        /// The hub's words.
        reason: String,
    },
    /// The cluster was found to be another one than the session was opened for.
    #[error("this is another cluster than before")]
    OtherCluster,
    /// The connection's certificate is about to end, and there is a newer one.
    #[error("this agent has a newer certificate")]
    Renewed,
    /// The hub does not keep to the rules of the stream.
    #[error("the hub broke the protocol: {0}")]
    Protocol(ProtocolError),
    /// The hub said nothing for too long: whatever is between us may be half open.
    #[error("the hub said nothing for {} s", SILENCE.as_secs())]
    Silent,
    /// The hub reads no more.
    #[error("the hub has not read for 15 s")]
    Stalled,
    /// The connection was lost.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// The hub ended the stream with a status.
    #[error("{message}{}", advice(*code))]
    Refused {
        /// The status.
        code: Code,
        /// The hub's words.
        message: String,
        /// When to come back.
        retry_after: Option<Duration>,
        /// The tenant does not exist at the hub.
        tenant_unknown: bool,
    },
}

fn advice(code: Code) -> &'static str {
    match code {
        Code::PermissionDenied => " (the hub's operator has to create or resume this Tenant)",
        Code::Unauthenticated => " (this agent needs a new certificate)",
        Code::Aborted => " (does another agent run with this certificate?)",
        Code::Unimplemented => " (hub.address is not that of a berth-hub of this release)",
        _ => "",
    }
}

impl Ending {
    /// What a status means. One without a server behind it is the transport's, which may know more of the cause.
    pub fn of_status(status: &Status, fate: &Fate) -> Self {
        if let Some(source) = std::error::Error::source(status) {
            return Self::Lost(fate.cause().unwrap_or_else(|| root(source)));
        }
        let trailer = |name: &str| status.metadata().get(name).and_then(|v| v.to_str().ok());
        Self::Refused {
            code: status.code(),
            message: status.message().to_owned(),
            retry_after: trailer(PUSHBACK)
                .and_then(|text| text.parse().ok())
                .map(Duration::from_millis),
            tenant_unknown: status.code() == Code::PermissionDenied
                && trailer(REASON_TRAILER) == Some(TENANT_UNKNOWN),
        }
    }

    /// What an error of the session's rules means.
    pub fn of_protocol(error: ProtocolError) -> Self {
        match error {
            ProtocolError::Silent => Self::Silent,
            other => Self::Protocol(other),
        }
    }

    /// Whether this agent has ended it by itself.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Stopped | Self::OtherCluster | Self::Renewed)
    }

    /// What it means for the next attempt.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Refused {
                retry_after: Some(after),
                ..
            } => Cause::RetryAfter(*after),
            Self::Refused {
                tenant_unknown: true,
                ..
            } => Cause::Unknown,
            Self::Refused {
                code: Code::PermissionDenied,
                ..
            } => Cause::Refused,
            Self::Refused {
                code: Code::Aborted,
                ..
            } => Cause::RetryAfter(AFTER_FENCING),
            _ => Cause::Lost,
        }
    }

    /// Whether the hub itself, or the way to it, was lost: then other agents may have lost it in the same instant.
    pub fn is_everyones(&self) -> bool {
        match self {
            Self::Closed | Self::Lost(_) | Self::Silent => true,
            Self::Refused {
                code, retry_after, ..
            } => *code == Code::Unavailable && retry_after.is_none(),
            _ => false,
        }
    }

    /// Whether the hub has said that this tenant does not exist there.
    pub fn tenant_unknown(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                tenant_unknown: true,
                ..
            }
        )
    }

    /// A word for the metric.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Unreachable(_) => "unreachable",
            Self::Closed => "closed",
            Self::Drained { .. } => "drained",
            Self::OtherCluster => "other_cluster",
            Self::Renewed => "renewed",
            Self::Silent => "silent",
            Self::Protocol(_) => "protocol",
            Self::Stalled => "stalled",
            Self::Lost(_) => "lost",
            Self::Refused { code, .. } => match code {
                Code::PermissionDenied => "permission_denied",
                Code::Unauthenticated => "unauthenticated",
                Code::FailedPrecondition => "failed_precondition",
                Code::Aborted => "aborted",
                Code::Unavailable => "unavailable",
                Code::ResourceExhausted => "resource_exhausted",
                _ => "refused",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: Code, trailers: &[(&'static str, &'static str)]) -> Ending {
        let mut status = Status::new(code, "no");
        for (name, value) in trailers {
            status.metadata_mut().insert(*name, value.parse().unwrap());
        }
        Ending::of_status(&status, &Fate::default())
    }

    #[test]
    fn each_status_has_its_consequence() {
        assert_eq!(refused(Code::PermissionDenied, &[]).cause(), Cause::Refused);
        let unknown = refused(Code::PermissionDenied, &[(REASON_TRAILER, TENANT_UNKNOWN)]);
        assert_eq!(unknown.cause(), Cause::Unknown);
        assert_eq!(refused(Code::Unavailable, &[]).cause(), Cause::Lost);
        assert_eq!(
            refused(Code::Aborted, &[]).cause(),
            Cause::RetryAfter(AFTER_FENCING)
        );
        assert!(refused(Code::Unavailable, &[]).is_everyones());
        assert!(!refused(Code::ResourceExhausted, &[]).is_everyones());
        let told = refused(Code::PermissionDenied, &[(PUSHBACK, "1500")]);
        assert_eq!(told.cause(), Cause::RetryAfter(Duration::from_millis(1500)));
    }

    #[test]
    fn point_07_only_the_hubs_own_word_makes_a_tenant_unknown() {
        assert!(
            refused(Code::PermissionDenied, &[(REASON_TRAILER, TENANT_UNKNOWN)]).tenant_unknown()
        );
        assert!(!refused(Code::PermissionDenied, &[]).tenant_unknown());
        assert!(!refused(Code::Unavailable, &[(REASON_TRAILER, TENANT_UNKNOWN)]).tenant_unknown());
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let text = refused(Code::PermissionDenied, &[]).to_string();
        assert_eq!(
            text,
            "no (the hub's operator has to create or resume this Tenant)"
        );
    }
}
