//! The network between the clusters: one bridge, a network namespace for each node and for the client, pod routes within a
//! cluster. Knows `ip`, `sysctl` and `nft`; must not know what runs in the namespaces.

use crate::address::{CLIENT, GATEWAY, NODES, Node};
use crate::control::Control;
use crate::error::Result;

/// The network namespace of the host beside the clusters.
pub(crate) const CLIENT_NETNS: &str = "client";

/// Builds it, in namespaces where nothing is yet.
pub(crate) async fn build(control: &Control) -> Result<()> {
    control
        .command(["ip", "-batch", "-"])
        .stdin(root_links())
        .run()
        .await?;
    let hosts = NODES.iter().map(Some).chain([None]);
    futures::future::try_join_all(hosts.map(|node| host(control, node))).await?;
    Ok(())
}

/// Sets the bridge's end of a host's link `up` or `down`.
pub(crate) async fn link(control: &Control, host: &str, state: &str) -> Result<()> {
    let argv = ["ip", "link", "set", &format!("v-{host}"), state].map(String::from);
    control.command(argv).run().await.map(drop)
}

/// What each host needs inside its namespace; `None` is the client.
async fn host(control: &Control, node: Option<&Node>) -> Result<()> {
    let netns = node.map_or(CLIENT_NETNS, |node| node.name);
    let inside = |argv: &[&str]| control.command(argv.iter().copied()).netns(netns);
    inside(&["ip", "-batch", "-"])
        .stdin(host_links(node))
        .run()
        .await?;
    inside(&[
        "sysctl",
        "-qw",
        "net.ipv4.ip_forward=1",
        "net.ipv4.conf.all.rp_filter=0",
    ])
    .run()
    .await?;
    if let Some(node) = node {
        inside(&["nft", "-f", "-"])
            .stdin(masquerade(node))
            .run()
            .await?;
    }
    Ok(())
}

fn root_links() -> String {
    let mut batch = format!(
        "link set lo up\nlink add fabric type bridge\nlink set fabric up\naddr add {GATEWAY}/16 dev fabric\n"
    );
    for name in NODES.iter().map(|node| node.name).chain([CLIENT_NETNS]) {
        batch += &format!(
            "netns add {name}\nlink add v-{name} type veth peer name eth0 netns {name}\n\
             link set v-{name} master fabric up\n"
        );
    }
    batch
}

fn host_links(node: Option<&Node>) -> String {
    let address = node.map_or(CLIENT, |node| node.address);
    let mut batch = format!(
        "link set lo up\nlink set eth0 up\naddr add {address}/16 dev eth0\nroute add default via {GATEWAY}\n"
    );
    if let Some(node) = node {
        for other in Node::of(node.cluster).filter(|other| other.name != node.name) {
            batch += &format!("route add {} via {}\n", other.pod_cidr(), other.address);
        }
    }
    batch
}

/// Pods reach the world under their node's address, as with any pod network that is not routed.
fn masquerade(node: &Node) -> String {
    format!(
        "table ip labmasq {{\n chain post {{\n  type nat hook postrouting priority srcnat;\n  \
         ip saddr {} ip daddr != {{ {}, 224.0.0.0/4 }} masquerade\n }}\n}}\n",
        node.pod_cidr(),
        node.cluster_cidr()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_routes_stay_within_the_cluster() {
        let links = host_links(Some(&NODES[0]));
        assert!(links.contains("route add 10.43.2.0/24 via 10.10.1.2"));
        assert!(!links.contains("10.42."), "{links}");
    }

    #[test]
    fn the_client_knows_no_pods() {
        assert!(!host_links(None).contains("/24"));
    }
}
