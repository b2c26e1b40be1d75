//! What can go wrong in the lab. It is read by people only, so every variant says what was tried, what happened, and where to
//! look; nothing here is retried by kind.

use std::time::Duration;

use crate::protocol::{Exit, FrameError};

/// The lab's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the lab could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something the lab needs is not as it must be; the text says what to do.
    #[error("{0}")]
    Start(String),
    /// A step failed for a reason of its own.
    #[error("{doing}")]
    Step {
        /// What was tried, as a sentence: "cannot open …".
        doing: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The conversation with the lab's inside failed.
    #[error("the lab's inside does not answer")]
    Control(#[from] FrameError),
    /// The lab's inside refused a request.
    #[error("{0}")]
    Refused(String),
    /// A command ended badly.
    #[error("`{command}` ended with {exit}\n{output}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        exit: Exit,
        /// The end of what it printed, complaints first.
        output: String,
    },
    /// A server inside the lab did not answer a request: nobody listens there, or nobody is there.
    #[error("{request}: {why}")]
    Unanswered {
        /// The request.
        request: String,
        /// What happened instead.
        why: String,
    },
    /// What was waited for did not come.
    #[error("{what}: not within {deadline:?}\nlast seen: {last}")]
    Deadline {
        /// What was waited for.
        what: String,
        /// For how long.
        deadline: Duration,
        /// The last thing seen instead.
        last: String,
    },
    /// A Kubernetes API server refused.
    #[error("the API server says {code} {reason}: {message}")]
    Api {
        /// The HTTP status.
        code: u16,
        /// Its reason in one word.
        reason: String,
        /// Its sentence.
        message: String,
    },
    /// A Kubernetes API server could not be reached or understood.
    #[error("a request to a Kubernetes API server failed")]
    Kube(#[source] kube::Error),
}

impl From<kube::Error> for Error {
    /// An API server's answer prints its message three times over, so only its parts are kept.
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Api {
                code: status.code,
                reason: status.reason,
                message: status.message,
            },
            error => Self::Kube(error),
        }
    }
}

impl Error {
    /// The error and its causes in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// Says what was tried when something fails.
pub(crate) trait Context<T> {
    /// With a fixed sentence.
    fn context(self, doing: &str) -> Result<T>;
    /// With a sentence made only when needed.
    fn with_context(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: std::error::Error + Send + Sync + 'static> Context<T> for Result<T, E> {
    fn context(self, doing: &str) -> Result<T> {
        self.with_context(|| doing.to_owned())
    }

    fn with_context(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Step {
            doing: doing(),
            source: Box::new(source),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_names_every_cause_once() {
        let error = Err::<(), _>(std::io::Error::other("disk full"))
            .context("cannot write the kubeconfig")
            .unwrap_err();
        assert_eq!(error.chain(), "cannot write the kubeconfig: disk full");
    }
}
