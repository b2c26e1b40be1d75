//! Does MetalLB have addresses to give, and does anything announce them? A pool that no advertisement selects gives out
//! addresses that no packet ever reaches, without a word in any log: the tutorial's first trap.

use std::collections::BTreeMap;

use berth_common::doctor::Finding;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use serde_json::Value;

#[derive(Debug)]
struct Pool {
    name: String,
    labels: BTreeMap<String, String>,
    ranges: usize,
}

#[derive(Debug)]
struct Advertisement {
    kind: &'static str,
    name: String,
    /// spec.ipAddressPools.
    pools: Vec<String>,
    /// spec.ipAddressPoolSelectors, each its matchLabels; None for one with expressions, which is taken to match.
    selectors: Vec<Option<BTreeMap<String, String>>>,
}

impl Advertisement {
    fn selects(&self, pool: &Pool) -> bool {
        if self.pools.is_empty() && self.selectors.is_empty() {
            return true;
        }
        self.pools.contains(&pool.name)
            || self.selectors.iter().any(|selector| match selector {
                None => true,
                Some(labels) => labels.iter().all(|(k, v)| pool.labels.get(k) == Some(v)),
            })
    }
}

pub(super) async fn check(client: &Client) -> Vec<Finding> {
    let pools = match list(client, "IPAddressPool", "ipaddresspools", "v1beta1").await {
        Ok(pools) => pools,
        Err(kube::Error::Api(status)) if status.code == 404 => {
            return vec![Finding::fail(
                "allocator",
                "MetalLB is not installed: no IPAddressPool is known",
                "install MetalLB, or set allocator: other when a cloud controller gives the addresses",
            )];
        }
        Err(error) => {
            return vec![Finding::warn(
                "allocator",
                format!("MetalLB's pools cannot be read: {error}"),
                "give the hub's ServiceAccount list on ipaddresspools, l2advertisements and bgpadvertisements of metallb.io",
            )];
        }
    };
    let mut advertisements = Vec::new();
    for (kind, plural) in [
        ("L2Advertisement", "l2advertisements"),
        ("BGPAdvertisement", "bgpadvertisements"),
    ] {
        if let Ok(found) = list(client, kind, plural, "v1beta1").await {
            advertisements.extend(found.iter().map(|object| advertisement(kind, object)));
        }
    }
    judge(&pools.iter().map(pool).collect::<Vec<_>>(), &advertisements)
}

async fn list(
    client: &Client,
    kind: &'static str,
    plural: &str,
    version: &str,
) -> Result<Vec<DynamicObject>, kube::Error> {
    let gvk = GroupVersionKind::gvk("metallb.io", version, kind);
    let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    Ok(api.list(&ListParams::default()).await?.items)
}

fn pool(object: &DynamicObject) -> Pool {
    Pool {
        name: object.name_any(),
        labels: object.labels().clone(),
        ranges: object.data["spec"]["addresses"]
            .as_array()
            .map_or(0, Vec::len),
    }
}

fn advertisement(kind: &'static str, object: &DynamicObject) -> Advertisement {
    let spec = &object.data["spec"];
    let texts = |value: &Value| -> Vec<String> {
        let items = value.as_array().into_iter().flatten();
        items
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect()
    };
    Advertisement {
        kind,
        name: object.name_any(),
        pools: texts(&spec["ipAddressPools"]),
        selectors: spec["ipAddressPoolSelectors"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|selector| {
                if selector["matchExpressions"]
                    .as_array()
                    .is_some_and(|e| !e.is_empty())
                {
                    return None;
                }
                serde_json::from_value(selector["matchLabels"].clone()).ok()
            })
            .collect(),
    }
}

fn judge(pools: &[Pool], advertisements: &[Advertisement]) -> Vec<Finding> {
    if pools.is_empty() {
        return vec![Finding::fail(
            "allocator",
            "MetalLB is installed, but has no IPAddressPool: it has no address to give",
            "create an IPAddressPool with addresses of your network, and an L2Advertisement or BGPAdvertisement that selects it",
        )];
    }
    let mut findings = vec![Finding::ok(
        "allocator",
        format!("MetalLB with {} pool(s)", pools.len()),
    )];
    for pool in pools {
        let subject = format!("pool {}", pool.name);
        if pool.ranges == 0 {
            findings.push(Finding::fail(
                subject.clone(),
                "has no addresses",
                "fill in spec.addresses of the IPAddressPool",
            ));
        }
        let by: Vec<_> = advertisements
            .iter()
            .filter(|a| a.selects(pool))
            .map(|a| format!("{} {}", a.kind, a.name))
            .collect();
        findings.push(if by.is_empty() {
            Finding::fail(
                subject,
                format!(
                    "is announced by nothing: its addresses are given out, but no packet reaches them{}",
                    astray(pools, advertisements)
                ),
                format!(
                    "name {} in spec.ipAddressPools of an L2Advertisement or BGPAdvertisement",
                    pool.name
                ),
            )
        } else {
            Finding::ok(subject, format!("announced by {}", by.join(", ")))
        });
    }
    for advertisement in advertisements {
        for name in &advertisement.pools {
            if !pools.iter().any(|p| p.name == *name) {
                findings.push(Finding::warn(
                    format!("{} {}", advertisement.kind, advertisement.name),
                    format!("selects pool {name}, which does not exist"),
                    "correct spec.ipAddressPools, or create that pool",
                ));
            }
        }
    }
    findings
}

/// The likely slip: an advertisement that selects a pool of another name.
fn astray(pools: &[Pool], advertisements: &[Advertisement]) -> String {
    advertisements
        .iter()
        .find_map(|a| {
            let name = a
                .pools
                .iter()
                .find(|n| pools.iter().all(|p| p.name != **n))?;
            Some(format!(" ({} {} selects pool {name})", a.kind, a.name))
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use berth_common::doctor::Level;

    use super::*;

    fn pool(name: &str) -> Pool {
        Pool {
            name: name.into(),
            labels: BTreeMap::from([("zone".into(), "a".into())]),
            ranges: 1,
        }
    }

    fn l2(pools: &[&str]) -> Advertisement {
        Advertisement {
            kind: "L2Advertisement",
            name: "extern".into(),
            pools: pools.iter().map(|p| (*p).into()).collect(),
            selectors: Vec::new(),
        }
    }

    fn worst(findings: &[Finding]) -> Level {
        findings.iter().map(|f| f.level).max().unwrap()
    }

    #[test]
    fn the_tutorials_first_trap_is_named_with_both_names() {
        let findings = judge(&[pool("management-pool")], &[l2(&["extern"])]);
        let trap = findings.iter().find(|f| f.level == Level::Fail).unwrap();
        assert_eq!(trap.subject, "pool management-pool");
        assert!(
            trap.found
                .contains("L2Advertisement extern selects pool extern"),
            "{trap}"
        );
    }

    #[test]
    fn a_pool_is_announced_by_name_by_label_or_by_an_advertisement_of_all() {
        let by_label = Advertisement {
            selectors: vec![Some(BTreeMap::from([("zone".into(), "a".into())]))],
            ..l2(&[])
        };
        for advertisement in [l2(&["p"]), l2(&[]), by_label] {
            assert_eq!(worst(&judge(&[pool("p")], &[advertisement])), Level::Ok);
        }
        let other_label = Advertisement {
            selectors: vec![Some(BTreeMap::from([("zone".into(), "b".into())]))],
            ..l2(&[])
        };
        assert_eq!(worst(&judge(&[pool("p")], &[other_label])), Level::Fail);
    }

    #[test]
    fn no_pool_is_no_allocator() {
        assert_eq!(worst(&judge(&[], &[])), Level::Fail);
    }
}
