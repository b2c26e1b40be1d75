//! What a `type: LoadBalancer` must honour, point by point, and where that is written. Source key: SC is the upstream
//! cloud-provider service controller (k8s.io/cloud-provider/controllers/service), H its helpers (k8s.io/cloud-provider/service/helpers),
//! API the core/v1 types, E2E upstream's test/e2e/network/loadbalancer.go, ML is MetalLB.

/// One point.
pub(crate) struct Point {
    pub(crate) number: usize,
    pub(crate) what: &'static str,
    pub(crate) source: &'static str,
}

const fn point(number: usize, what: &'static str, source: &'static str) -> Point {
    Point {
        number,
        what,
        source,
    }
}

/// All points.
pub(crate) const POINTS: [Point; 34] = [
    point(1, "only Services of our class are touched", "API, KEP-1959"),
    point(
        2,
        "Services without a class are ours unless a class is demanded",
        "SC, KEP-1959",
    ),
    point(
        3,
        "the finalizer is there before or with the first send, and goes with the hub's word",
        "KEP-980, SC `needsCleanup`, E2E",
    ),
    point(
        4,
        "a type that leaves LoadBalancer is released, and can come back",
        "SC, E2E",
    ),
    point(
        5,
        "the same name with another UID keeps its address",
        "Berth: identity is tenant, namespace, name",
    ),
    point(
        6,
        "after a restart both the wanted and the leaving are looked at again",
        "SC",
    ),
    point(
        7,
        "a deletion is idempotent, and an unknown tenant lets its Services go",
        "SC",
    ),
    point(8, "uninstalling releases every finalizer", "KEP-980"),
    point(
        9,
        "every part of a port is followed, a name alone too",
        "SC",
    ),
    point(
        10,
        "the address survives changes of ports and node ports",
        "E2E",
    ),
    point(11, "TCP and UDP on one port number", "KEP-1435"),
    point(
        12,
        "a protocol that is not supported is refused with condition and event",
        "SC `LoadBalancerPortsError`",
    ),
    point(
        13,
        "no node port: refused, and it works once there is one",
        "KEP-1864",
    ),
    point(
        14,
        "source ranges: field, annotation, or everyone; live; enforced",
        "H, E2E",
    ),
    point(15, "session affinity and its timeout", "SC, E2E"),
    point(
        16,
        "only the requested IP families; RequireDualStack is all or nothing",
        "API, ML",
    ),
    point(
        17,
        "a requested address is the tenant's policy's to give",
        "API, ML",
    ),
    point(
        18,
        "externalIPs, externalName and selectors are never passed on",
        "CVE-2020-8554",
    ),
    point(
        19,
        "annotations pass by an allow-list only; the allocator is the operator's to steer",
        "ML",
    ),
    point(
        20,
        "node.kubernetes.io/exclude-from-external-load-balancers",
        "SC",
    ),
    point(
        21,
        "nodes that are being deleted, by the autoscaler too",
        "KEP-3458, SC",
    ),
    point(22, "nodes that are not ready go while any is ready", "SC"),
    point(
        23,
        "the preferred address type, in both families, or a reason",
        "SC",
    ),
    point(
        24,
        "externalTrafficPolicy Local leads only to nodes with endpoints",
        "KEP-1669, E2E",
    ),
    point(
        25,
        "no usable backend: the tenant is told, the address stays",
        "SC `UnAvailableLoadBalancer`, ML",
    ),
    point(
        26,
        "nodes are probed from the management side; all failing fails open",
        "KEP-3458",
    ),
    point(
        27,
        "churn of nodes is one update for each slice concerned",
        "SC",
    ),
    point(
        28,
        "status.loadBalancer.ingress has one writer, who owns all of it",
        "API",
    ),
    point(29, "ipMode Proxy", "KEP-1860"),
    point(
        30,
        "a later change of the address is followed, and its end",
        "SC",
    ),
    point(31, "upstream's events, and why an address is pending", "SC"),
    point(
        32,
        "conditions say what is refused and what to do, and clear when mended",
        "API",
    ),
    point(
        33,
        "unchanged input writes nothing, across any restart",
        "Berth",
    ),
    point(
        34,
        "packets reach a pod, through TCP and UDP, whatever fails",
        "E2E",
    ),
];
