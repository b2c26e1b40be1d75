//! What a person needs to see why packets went astray: who announces the address, what each node's packet filter does with it, and
//! what both clusters say of the Service. Reads only.

use std::collections::BTreeSet;

use berth_lab::address::Node;
use berth_lab::{Cluster, Lab, Tenant};

/// Everything that is known about the Services of a namespace of these tenants.
pub(crate) async fn evidence(lab: &Lab, tenants: &[&Tenant], namespace: &str) -> String {
    let management = lab.management();
    let label = format!("berth.dev/service-namespace={namespace}");
    let mut text = format!("\n=== evidence about {namespace} ===\n");
    for tenant in tenants {
        let kinds = "services,endpointslices,pods";
        let argv = ["get", kinds, "-n", namespace, "-o", "wide"];
        text += &section(tenant.name(), &argv.join(" "), tenant.kubectl(&argv).await);
        let argv = ["get", "nodes", "-o", "wide"];
        text += &section(tenant.name(), &argv.join(" "), tenant.kubectl(&argv).await);
    }
    let kinds = "services,loadbalancers.berth.dev";
    let argv = ["get", kinds, "-A", "-l", &label, "-o", "wide"];
    text += &section(
        "management",
        &argv.join(" "),
        management.kubectl(&argv).await,
    );
    let argv = ["get", "endpointslices", "-A", "-l", &label, "-o", "yaml"];
    text += &section(
        "management",
        &argv.join(" "),
        management.kubectl(&argv).await,
    );
    let argv = ["get", "servicel2statuses.metallb.io", "-A", "-o", "wide"];
    text += &section(
        "management",
        &argv.join(" "),
        management.kubectl(&argv).await,
    );
    let neighbours = lab.client().sh(["ip", "neigh"]).await;
    text += &section("client", "ip neigh", neighbours);

    let mut words = words(management, &["-A", "-l", &label]).await;
    text += &rulesets(lab, "management", &words).await;
    for tenant in tenants {
        words.extend(self::words(tenant, &["-n", namespace]).await);
        words.insert(format!("-{namespace}/"));
        text += &rulesets(lab, tenant.name(), &words).await;
    }
    let log = lab.hub().log().await.unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let last = lines.len().saturating_sub(20);
    text += &format!(
        "--- berth-hub's log, its end\n{}\n",
        lines[last..].join("\n")
    );
    text
}

/// By what packet filters know these Services: their names and addresses.
async fn words(cluster: &Cluster, selection: &[&str]) -> BTreeSet<String> {
    let columns =
        "custom-columns=N:.metadata.name,C:.spec.clusterIP,I:.status.loadBalancer.ingress[*].ip";
    let mut argv = vec!["get", "services", "--no-headers", "-o", columns];
    argv.extend(selection);
    let listed = cluster.kubectl(&argv).await.unwrap_or_default();
    let words = listed.split([' ', ',', '\n']).filter(|word| word.len() > 6);
    words.map(str::to_owned).collect()
}

/// The parts of the packet filters of a cluster's nodes that have to do with any of these words, and what arrived where.
async fn rulesets(lab: &Lab, cluster: &str, words: &BTreeSet<String>) -> String {
    let mut text = String::new();
    for node in Node::of(cluster) {
        let ruleset = lab.host(node.name).sh(["nft", "list", "ruleset"]).await;
        let ruleset = ruleset.map(|ruleset| relevant(&ruleset, words));
        text += &section(node.name, "nft list ruleset, what concerns it", ruleset);
    }
    text
}

/// Of each chain, map or set the whole where its head has one of the words, else the lines that have.
fn relevant(ruleset: &str, words: &BTreeSet<String>) -> String {
    let concerns = |line: &str| words.iter().any(|word| line.contains(word.as_str()));
    let mut kept = String::new();
    let mut block = String::new();
    let mut whole = false;
    for line in ruleset.lines() {
        if line.ends_with('{') {
            block = format!("{line}\n");
            whole = concerns(line);
            if whole {
                kept += &block;
                block.clear();
            }
        } else if whole || concerns(line) {
            kept += &std::mem::take(&mut block);
            kept += line;
            kept.push('\n');
        }
    }
    kept
}

fn section(place: &str, what: &str, found: berth_lab::Result<String>) -> String {
    let found = found.unwrap_or_else(|error| error.chain());
    format!("--- {place}: {what}\n{}\n", found.trim_end())
}

#[test]
fn of_a_packet_filter_what_concerns_the_service_is_kept() {
    let ruleset = "table ip kube-proxy {\n\tmap service-ips {\n\t\telements = {\n\t\t\t10.1.1.1 : goto x,\n\t\t\t10.2.2.2 : goto y\n\t\t}\n\t}\n\
                   \tchain service-web {\n\t\tcounter\n\t}\n\tchain service-other {\n\t\tdrop\n\t}\n}\n";
    let words = BTreeSet::from(["10.2.2.2".to_owned(), "-web".to_owned()]);
    let kept = relevant(ruleset, &words);
    assert!(
        kept.contains("10.2.2.2") && kept.contains("counter"),
        "{kept}"
    );
    assert!(
        !kept.contains("10.1.1.1") && !kept.contains("drop"),
        "{kept}"
    );
}
