//! Kubeconfig files: one cluster, one user with a token. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// The file for the cluster `name`, served at `server` under the CA `ca` (PEM), and for the bearer of `token`.
pub(crate) fn render(name: &str, server: &str, ca: &str, token: &str) -> String {
    let file = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": name,
            "cluster": { "server": server, "certificate-authority-data": STANDARD.encode(ca) },
        }],
        "users": [{ "name": "lab", "user": { "token": token } }],
        "contexts": [{ "name": name, "context": { "cluster": name, "user": "lab" } }],
        "current-context": name,
    });
    // Every JSON text is YAML.
    format!("{file:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kube_reads_it() {
        let text = render("acme", "https://10.10.0.1:16453", "PEM", "secret-token");
        let read = kube::config::Kubeconfig::from_yaml(&text).unwrap();
        assert_eq!(read.current_context.as_deref(), Some("acme"));
        let cluster = read.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://10.10.0.1:16453"));
        assert_eq!(cluster.certificate_authority_data.as_deref(), Some("UEVN"));
    }
}
