//! Counts which of a tenant's nodes new connections to a node port arrive on, by a rule of its own in each node's packet filter:
//! after that, a tenant's kube-proxy may pass them to any node. Knows nft.

use anyhow::{Context, Result};
use berth_lab::Lab;
use serde_json::Value;

/// Counters for one TCP node port.
pub(crate) struct Arrivals<'a> {
    lab: &'a Lab,
    table: String,
    nodes: [&'static str; 2],
}

impl<'a> Arrivals<'a> {
    /// Counts from now on.
    pub(crate) async fn at(lab: &'a Lab, nodes: [&'static str; 2], port: u16) -> Result<Self> {
        let table = format!("arrivals-{port}");
        // Before any address is translated, and only what opens a connection.
        let rules = format!(
            "table ip {table} {{\n counter seen {{}}\n chain pre {{\n  type filter hook prerouting priority raw;\n  \
             tcp dport {port} tcp flags & (syn | ack) == syn counter name seen\n }}\n}}\n"
        );
        for node in nodes {
            let nft = lab.host(node).command(["nft", "-f", "-"])?;
            nft.stdin(&rules).run().await?;
        }
        Ok(Self { lab, table, nodes })
    }

    /// How many have arrived on each node so far.
    pub(crate) async fn count(&self) -> Result<[u64; 2]> {
        let [first, second] = self.nodes;
        Ok([self.on(first).await?, self.on(second).await?])
    }

    /// How many arrive on each node while `these` run.
    pub(crate) async fn during<T>(
        &self,
        these: impl Future<Output = Result<T>>,
    ) -> Result<[u64; 2]> {
        let before = self.count().await?;
        these.await?;
        let after = self.count().await?;
        Ok([after[0] - before[0], after[1] - before[1]])
    }

    async fn on(&self, node: &str) -> Result<u64> {
        let argv = ["nft", "-j", "list", "counters", "table", "ip", &self.table];
        let json: Value = serde_json::from_str(&self.lab.host(node).sh(argv).await?)?;
        let items = json["nftables"].as_array().into_iter().flatten();
        let mut counters = items.filter_map(|item| item["counter"]["packets"].as_u64());
        counters
            .next()
            .with_context(|| format!("no counter on {node}: {json}"))
    }
}
