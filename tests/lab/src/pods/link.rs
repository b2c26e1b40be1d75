//! The network of a pod without a kubelet: a namespace, and a link to its node. Knows `ip`; must not know pods.

use std::net::Ipv4Addr;

use crate::address::Node;
use crate::control::Control;
use crate::error::Result;

/// Makes the network namespace `netns`, with `address`, behind `node`. The link's end in the node has the name of the
/// namespace, which must fit an interface (15 bytes).
pub(super) async fn add(
    control: &Control,
    node: &Node,
    netns: &str,
    address: Ipv4Addr,
) -> Result<()> {
    // Every link has the same address on the node's side, as with a bridge between them.
    let gateway = node.pod(1);
    let made = format!(
        "netns add {netns}\nlink add {netns} netns {} type veth peer name eth0 netns {netns}\n",
        node.name
    );
    let in_node = format!(
        "addr add {gateway}/32 dev {netns}\nlink set {netns} up\nroute add {address} dev {netns} src {gateway}\n"
    );
    let in_pod = format!(
        "link set lo up\naddr add {address}/32 dev eth0\nlink set eth0 up\n\
         route add {gateway} dev eth0\nroute add default via {gateway}\n"
    );
    let batch = |text| control.command(["ip", "-batch", "-"]).stdin(text);
    batch(made).run().await?;
    batch(in_node).netns(node.name).run().await?;
    batch(in_pod).netns(netns).run().await?;
    Ok(())
}

/// Removes the namespace, and the link with it.
pub(super) async fn remove(control: &Control, netns: &str) -> Result<()> {
    control.command(["ip", "netns", "del", netns]).run().await?;
    Ok(())
}
