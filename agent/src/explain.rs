//! What an API server's client says, in one line for people: the library's own texts repeat themselves and print whole
//! structures.

use std::error::Error as _;

/// A client's error in one line, with what to do where that is known.
pub fn explain(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return match status.code {
            403 => format!(
                "{} (does the agent's ClusterRole allow it?)",
                status.message
            ),
            401 => format!(
                "{} (is the token or kubeconfig still valid?)",
                status.message
            ),
            _ => status.message.clone(),
        };
    }
    // The root says what happened; the layers above it only that something did.
    let mut root: &dyn std::error::Error = error;
    while let Some(source) = root.source() {
        root = source;
    }
    match error.source() {
        Some(_) => root.to_string(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_its_message_and_what_to_look_at() {
        let status = |code| {
            let status = kube::core::Status::failure("no", "Reason").with_code(code);
            explain(&kube::Error::Api(status.boxed()))
        };
        assert_eq!(status(403), "no (does the agent's ClusterRole allow it?)");
        assert_eq!(status(401), "no (is the token or kubeconfig still valid?)");
        assert_eq!(status(500), "no");
    }

    #[test]
    fn another_error_is_its_innermost_cause() {
        let error = kube::Error::Service(Box::new(std::io::Error::other("connection refused")));
        assert_eq!(explain(&error), "connection refused");
    }
}
