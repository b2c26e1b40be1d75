//! Which of a Service's annotations may travel from the tenant's Service to the management Service. The operator's list says
//! which; some it can never let through, whatever it says: they steer an allocator or a cloud, or are Kubernetes' own or
//! Berth's. Both sides use this: the agent so that nothing else ever leaves its cluster, and the hub because it trusts none.

use std::collections::BTreeSet;

/// The most annotations of one Service that travel.
pub const MAX_COUNT: usize = 64;
/// The most bytes that their keys and values take.
pub const MAX_BYTES: usize = 16 * 1024;
/// The longest annotation that the agent keeps for the case that it may pass.
pub const MAX_VALUE: usize = 4 * 1024;

/// MetalLB: Services of one key may share an address, whatever namespaces they are in. Passes only where the operator's list
/// names it in full, and then the hub makes the key the tenant's own.
pub const SHARING: [&str; 2] = [
    "metallb.io/allow-shared-ip",
    "metallb.universe.tf/allow-shared-ip",
];

/// Whose annotations tell something which addresses to give, and how to announce them.
const STEERING: [&str; 12] = [
    "metallb.io",
    "metallb.universe.tf",
    "io.cilium",
    "lbipam.cilium.io",
    "kube-vip.io",
    "purelb.io",
    "loxilb.io",
    "projectcalico.org",
    "openelb.kubesphere.io",
    "service.antrea.io",
    "service.beta.kubernetes.io",
    "service.alpha.kubernetes.io",
];

/// Kubernetes' own, the clouds' and Berth's: never a tenant's to set in the management cluster.
const RESERVED: [&str; 8] = [
    "kubernetes.io",
    "k8s.io",
    "berth.dev",
    "cloud.google.com",
    "gke.io",
    "openstack.org",
    "hetzner.cloud",
    "oraclecloud.com",
];

/// Under Kubernetes' domain, and not Kubernetes'.
const FREE: &str = "external-dns.alpha.kubernetes.io";

/// What the agent itself takes from annotations: they are followed, not passed on.
const FOLLOWED: [&str; 2] = [
    "service.beta.kubernetes.io/load-balancer-source-ranges",
    "berth.dev/load-balancer-ips",
];

/// The operator's list of annotations that may pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    keys: BTreeSet<String>,
    /// Of `example.com/*`: `example.com`.
    domains: BTreeSet<String>,
}

impl Allowed {
    /// Reads a list of keys, and of domains followed by `/*`. What is neither lets nothing through.
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Self {
        let mut allowed = Self::default();
        for pattern in patterns {
            let pattern = pattern.as_ref();
            match pattern.strip_suffix("/*") {
                Some(domain) if is_domain(domain) => {
                    allowed.domains.insert(domain.into());
                }
                None if is_key(pattern) => {
                    allowed.keys.insert(pattern.into());
                }
                _ => {}
            }
        }
        allowed
    }

    /// The list again, sorted.
    pub fn patterns(&self) -> Vec<String> {
        let domains = self.domains.iter().map(|domain| format!("{domain}/*"));
        self.keys.iter().cloned().chain(domains).collect()
    }

    /// Whether an annotation of that key may pass.
    pub fn passes(&self, key: &str) -> bool {
        if never(key) || !is_key(key) {
            return false;
        }
        self.keys.contains(key)
            || !SHARING.contains(&key)
                && domain(key).is_some_and(|domain| self.domains.contains(domain))
    }
}

/// Whether a tenant's annotation of that key never passes, whatever the operator's list says.
pub fn never(key: &str) -> bool {
    let Some(domain) = domain(key) else {
        return false;
    };
    !SHARING.contains(&key) && domain != FREE && is_of(domain, STEERING.iter().chain(&RESERVED))
}

/// Whether somebody who sets it wants to steer a load balancer: it does nothing here, and they should know.
pub fn steers(key: &str) -> bool {
    let Some(domain) = domain(key) else {
        return false;
    };
    let names_it = || {
        ["load-balancer", "loadbalancer"]
            .iter()
            .any(|word| key.contains(word))
    };
    !FOLLOWED.contains(&key) && (is_of(domain, &STEERING) || is_of(domain, &RESERVED) && names_it())
}

/// Whether the API server lets an annotation have this key: a name of at most 63 characters, perhaps behind a domain and `/`.
pub fn is_key(key: &str) -> bool {
    let (domain, name) = match key.split_once('/') {
        Some((domain, name)) => (Some(domain), name),
        None => (None, key),
    };
    let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    domain.is_none_or(is_domain)
        && name.len() <= 63
        && edge(name.bytes().next())
        && edge(name.bytes().last())
        && name
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
}

fn is_domain(domain: &str) -> bool {
    domain.len() <= 253 && domain.split('.').all(super::wire::is_label)
}

fn domain(key: &str) -> Option<&str> {
    key.split_once('/').map(|(domain, _)| domain)
}

/// Whether it is one of these domains or below one.
fn is_of<'a>(domain: &str, domains: impl IntoIterator<Item = &'a &'a str>) -> bool {
    domains.into_iter().any(|whole| {
        domain
            .strip_suffix(whole)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn point_19_keys_in_full_or_by_their_domain() {
        let allowed = Allowed::new([
            "example.com/owner",
            "dns.example.org/*",
            "plain",
            "*",
            "x/y/*",
        ]);
        assert_eq!(
            allowed.patterns(),
            ["example.com/owner", "plain", "dns.example.org/*"]
        );
        for key in [
            "example.com/owner",
            "dns.example.org/a",
            "dns.example.org/B_c",
            "plain",
        ] {
            assert!(allowed.passes(key), "{key}");
        }
        for key in [
            "example.com/other",
            "example.org/a",
            "x.dns.example.org/a",
            "other",
            "",
        ] {
            assert!(!allowed.passes(key), "{key}");
        }
    }

    #[test]
    fn point_19_hostile_57_and_59_what_steers_never_passes_whatever_the_list_says() {
        let steering = [
            "metallb.io/address-pool",
            "metallb.io/loadBalancerIPs",
            "metallb.universe.tf/address-pool",
            "lbipam.cilium.io/ips",
            "service.beta.kubernetes.io/aws-load-balancer-type",
            "service.kubernetes.io/qcloud-loadbalancer-id",
            "load-balancer.hetzner.cloud/location",
        ];
        let silent = [
            "kubectl.kubernetes.io/last-applied-configuration",
            "kubernetes.io/description",
            "service.kubernetes.io/topology-mode",
            "cloud.google.com/neg",
            "berth.dev/load-balancer-ips",
        ];
        let list: Vec<String> = steering
            .iter()
            .chain(&silent)
            .flat_map(|key| [(*key).to_owned(), format!("{}/*", domain(key).unwrap())])
            .collect();
        let allowed = Allowed::new(&list);
        for key in steering {
            assert!(!allowed.passes(key), "{key}");
            assert!(steers(key), "{key}");
        }
        for key in silent {
            assert!(!allowed.passes(key), "{key}");
            assert!(
                !steers(key),
                "{key} is nothing that people should be warned of"
            );
        }
        assert!(!steers(
            "service.beta.kubernetes.io/load-balancer-source-ranges"
        ));
        assert!(
            Allowed::new(["external-dns.alpha.kubernetes.io/*"])
                .passes("external-dns.alpha.kubernetes.io/hostname")
        );
        assert!(!never("notmetallb.io/a"), "a domain that only ends alike");
    }

    #[test]
    fn point_19_sharing_passes_only_where_it_is_named_in_full() {
        for key in SHARING {
            assert!(Allowed::new([key]).passes(key));
            let domain = format!("{}/*", domain(key).unwrap());
            assert!(!Allowed::new([domain]).passes(key));
            assert!(steers(key));
        }
    }
}
