//! Why a write did not happen, sorted by what to do about it.

use kube::{core::Status, error::Error};

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The object that was to be changed is not there (any more), or another is: plan with what is there.
    #[error("what was observed is outdated")]
    Outdated,
    /// An object of this name exists and is not the hub's.
    #[error("{0}")]
    InTheWay(String),
    /// The API server finds fault with the content.
    #[error("{field}: {message}")]
    Rejected {
        /// The field of the management object.
        field: String,
        /// What the API server says.
        message: String,
    },
    /// A quota or a webhook does not allow it.
    #[error("{0}")]
    Forbidden(String),
    /// May work later.
    #[error(transparent)]
    Retry(Error),
}

impl Failure {
    /// A short word for metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Outdated => "outdated",
            Self::InTheWay(_) => "in_the_way",
            Self::Rejected { .. } => "rejected",
            Self::Forbidden(_) => "forbidden",
            Self::Retry(_) => "error",
        }
    }

    /// Whether trying the same again may help.
    #[cfg(test)]
    fn is_retryable(&self) -> bool {
        matches!(self, Self::Retry(_))
    }
}

impl From<Error> for Failure {
    /// Sorts an error, of a write whose conflicts and missing objects the writer has already dealt with.
    fn from(error: Error) -> Self {
        let Error::Api(status) = &error else {
            return Self::Retry(error);
        };
        match status.code {
            // Server-side apply and patches of an object of another UID than they were made for. (Where there is none at all they are a
            // conflict, and make nothing.)
            422 if is_another(status) => Self::Outdated,
            400 | 413 | 422 => {
                let causes = status.details.iter().flat_map(|details| &details.causes);
                let fields: Vec<&str> = causes
                    .map(|cause| cause.field.as_str())
                    .filter(|f| !f.is_empty())
                    .collect();
                Self::Rejected {
                    field: fields.first().copied().unwrap_or_default().to_owned(),
                    message: status.message.clone(),
                }
            }
            403 if !is_terminating(status) && !is_unauthorized(status) => {
                Self::Forbidden(status.message.clone())
            }
            404 | 409 => Self::Outdated,
            _ => Self::Retry(error),
        }
    }
}

/// The UID that was sent is not that of the object.
fn is_another(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes
        .into_iter()
        .any(|cause| cause.field == "metadata.uid")
}

/// The namespace is being deleted; it can be made anew when it is gone.
fn is_terminating(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes
        .into_iter()
        .any(|cause| cause.reason == "NamespaceTerminating")
}

/// The hub's account lacks the right. An API server that has just started says so too, before it has read its roles, so
/// that this is tried again at the pace of an outage. Only the words tell it from a quota's or a webhook's refusal.
fn is_unauthorized(status: &Status) -> bool {
    status.message.contains("User \"") && status.message.contains("\" cannot ")
}

/// The namespace that the object was to be made in does not exist.
pub(super) fn is_namespace_missing(error: &Error) -> bool {
    let Error::Api(status) = error else {
        return false;
    };
    status.code == 404
        && status
            .details
            .as_ref()
            .is_some_and(|details| details.kind == "namespaces")
}

/// Another object, or another writer of its fields.
pub(super) fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 409)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: u16, cause: Option<(&str, &str)>) -> Error {
        let mut status = Status::failure("words", "Reason");
        status.code = code;
        let cause = cause.map(|(reason, field)| kube::core::response::StatusCause {
            reason: reason.into(),
            field: field.into(),
            message: String::new(),
        });
        status.details = Some(kube::core::response::StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: "namespaces".into(),
            uid: String::new(),
            causes: cause.into_iter().collect(),
            retry_after_seconds: 0,
        });
        Error::Api(Box::new(status))
    }

    #[test]
    fn errors_are_sorted_by_what_to_do() {
        for code in [429, 500, 503, 504] {
            assert!(Failure::from(error(code, None)).is_retryable(), "{code}");
        }
        for code in [400, 403, 404, 409, 413, 422] {
            assert!(!Failure::from(error(code, None)).is_retryable(), "{code}");
        }
        assert!(Failure::from(error(403, Some(("NamespaceTerminating", "")))).is_retryable());
        assert!(is_namespace_missing(&error(404, None)));
        let Error::Api(mut status) = error(403, None) else {
            panic!("made above")
        };
        status.message =
            r#"services "x" is forbidden: User "hub" cannot patch resource "services""#.into();
        assert!(Failure::from(Error::Api(status)).is_retryable());
    }

    #[test]
    fn another_object_than_the_one_that_was_seen_is_planned_anew_and_not_rejected() {
        for error in [
            error(422, Some(("FieldValueInvalid", "metadata.uid"))),
            error(409, None),
            error(404, None),
        ] {
            assert!(matches!(Failure::from(error), Failure::Outdated));
        }
    }

    #[test]
    fn a_rejection_names_the_field() {
        let failure = Failure::from(error(
            422,
            Some(("FieldValueInvalid", "spec.ports[0].appProtocol")),
        ));
        assert_eq!(failure.to_string(), "spec.ports[0].appProtocol: words");
    }
}
