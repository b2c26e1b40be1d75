//! What an operator's change of a `Tenant` object means, in words for the audit log. Pure.

use super::TenantFacts;

/// What is different, each with a word and a sentence. Of a new one: that it is there.
pub(super) fn of(before: Option<&TenantFacts>, after: &TenantFacts) -> Vec<(&'static str, String)> {
    let Some(before) = before.filter(|before| before.uid == after.uid) else {
        return vec![("created", format!("UID {}", after.uid))];
    };
    let mut news = Vec::new();
    match (before.suspended, after.suspended) {
        (false, true) => news.push(("suspended", String::new())),
        (true, false) => news.push(("resumed", String::new())),
        (true, true) | (false, false) => {}
    }
    if before.revoked != after.revoked {
        news.push(("credentials", credentials(before, after)));
    }
    if before.confirmed != after.confirmed && after.confirmed {
        news.push(("deletion_confirmed", String::new()));
    }
    let (from, to) = (&before.status.cluster_uid, &after.status.cluster_uid);
    if from != to {
        let name = |uid: &Option<String>| uid.clone().unwrap_or_else(|| "none".into());
        let detail = format!("from cluster {} to {}", name(from), name(to));
        news.push(("binding", detail));
    }
    let policy = policy(before, after);
    if !policy.is_empty() {
        news.push(("policy", policy.join(", ")));
    }
    news
}

fn credentials(before: &TenantFacts, after: &TenantFacts) -> String {
    let mut said = Vec::new();
    if before.revoked.not_before != after.revoked.not_before {
        let until = after.revoked.not_before;
        said.push(match until {
            Some(until) => format!(
                "all from before {} are revoked",
                berth_common::tls::format_time(until)
            ),
            None => "notBefore was taken away".into(),
        });
    }
    let added = after.revoked.serials.difference(&before.revoked.serials);
    said.extend(added.map(|serial| format!("{serial} is revoked")));
    let lifted = before.revoked.serials.difference(&after.revoked.serials);
    said.extend(lifted.map(|serial| format!("{serial} is good again")));
    said.join(", ")
}

/// The fields of the policy that say something else.
fn policy(before: &TenantFacts, after: &TenantFacts) -> Vec<&'static str> {
    let (was, is) = (&before.nodes, &after.nodes);
    let fields = [
        ("addressPool", before.pool != after.pool),
        ("loadBalancerClass", before.class != after.class),
        ("requestableIPs", before.requestable != after.requestable),
        ("annotations", before.annotations != after.annotations),
        (
            "releaseAfterSeconds",
            before.release_after != after.release_after,
        ),
        ("reclaimPolicy", before.retain != after.retain),
        ("nodeCIDRs", was.allowed != is.allowed),
        ("nodePortRange", was.ports != is.ports),
        (
            "quotas",
            was.quotas != is.quotas
                || before.places.load_balancers != after.places.load_balancers
                || before.places.ports != after.places.ports
                || before.changes_per_second != after.changes_per_second,
        ),
        ("enforce", was.enforce != is.enforce),
        ("healthCheck", before.health != after.health),
    ];
    let changed = fields.into_iter().filter(|(_, differs)| *differs);
    changed.map(|(field, _)| field).collect()
}
