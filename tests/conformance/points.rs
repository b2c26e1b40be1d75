//! What a `type: LoadBalancer` must honour, point by point, and where that is written. Source key: SC is the upstream
//! cloud-provider service controller (k8s.io/cloud-provider/controllers/service), H its helpers (k8s.io/cloud-provider/service/helpers),
//! API the core/v1 types, E2E upstream's test/e2e/network/loadbalancer.go, ML is MetalLB.

use crate::pages::{Line, Page, line};

/// The page.
pub(crate) const PAGE: Page = Page {
    path: "docs/conformance.md",
    prefix: "point_",
    head: HEAD,
    lines: &POINTS,
};

const HEAD: &str = "\
# Conformance

What a Service of `type: LoadBalancer` must honour, and the tests that show it. Generated from the tests' names by
`make generate`; a test fails when this page is out of date. SC: upstream's service controller; H: its helpers; API: the core/v1
types; E2E: upstream's test/e2e/network/loadbalancer.go; ML: MetalLB.

| | point | source | shown by |
|---|---|---|---|
";

/// All points.
const POINTS: [Line; 34] = [
    line(1, "only Services of our class are touched", "API, KEP-1959"),
    line(
        2,
        "Services without a class are ours unless a class is demanded",
        "SC, KEP-1959",
    ),
    line(
        3,
        "the finalizer is there before or with the first send, and goes with the hub's word",
        "KEP-980, SC `needsCleanup`, E2E",
    ),
    line(
        4,
        "a type that leaves LoadBalancer is released, and can come back",
        "SC, E2E",
    ),
    line(
        5,
        "the same name with another UID keeps its address",
        "Berth: identity is tenant, namespace, name",
    ),
    line(
        6,
        "after a restart both the wanted and the leaving are looked at again",
        "SC",
    ),
    line(
        7,
        "a deletion is idempotent, and an unknown tenant lets its Services go",
        "SC",
    ),
    line(8, "uninstalling releases every finalizer", "KEP-980"),
    line(
        9,
        "every part of a port is followed, a name alone too",
        "SC",
    ),
    line(
        10,
        "the address survives changes of ports and node ports",
        "E2E",
    ),
    line(11, "TCP and UDP on one port number", "KEP-1435"),
    line(
        12,
        "a protocol that is not supported is refused with condition and event",
        "SC `LoadBalancerPortsError`",
    ),
    line(
        13,
        "no node port: refused, and it works once there is one",
        "KEP-1864",
    ),
    line(
        14,
        "source ranges: field, annotation, or everyone; live; enforced",
        "H, E2E",
    ),
    line(15, "session affinity and its timeout", "SC, E2E"),
    line(
        16,
        "only the requested IP families; RequireDualStack is all or nothing",
        "API, ML",
    ),
    line(
        17,
        "a requested address is the tenant's policy's to give",
        "API, ML",
    ),
    line(
        18,
        "externalIPs, externalName and selectors are never passed on",
        "CVE-2020-8554",
    ),
    line(
        19,
        "annotations pass by an allow-list only; the allocator is the operator's to steer",
        "ML",
    ),
    line(
        20,
        "node.kubernetes.io/exclude-from-external-load-balancers",
        "SC",
    ),
    line(
        21,
        "nodes that are being deleted, by the autoscaler too",
        "KEP-3458, SC",
    ),
    line(22, "nodes that are not ready go while any is ready", "SC"),
    line(
        23,
        "the preferred address type, in both families, or a reason",
        "SC",
    ),
    line(
        24,
        "externalTrafficPolicy Local leads only to nodes with endpoints",
        "KEP-1669, E2E",
    ),
    line(
        25,
        "no usable backend: the tenant is told, the address stays",
        "SC `UnAvailableLoadBalancer`, ML",
    ),
    line(
        26,
        "nodes are probed from the management side; all failing fails open",
        "KEP-3458",
    ),
    line(
        27,
        "churn of nodes is one update for each slice concerned",
        "SC",
    ),
    line(
        28,
        "status.loadBalancer.ingress has one writer, who owns all of it",
        "API",
    ),
    line(29, "ipMode Proxy", "KEP-1860"),
    line(
        30,
        "a later change of the address is followed, and its end",
        "SC",
    ),
    line(31, "upstream's events, and why an address is pending", "SC"),
    line(
        32,
        "conditions say what is refused and what to do, and clear when mended",
        "API",
    ),
    line(
        33,
        "unchanged input writes nothing, across any restart",
        "Berth",
    ),
    line(
        34,
        "packets reach a pod, through TCP and UDP, whatever fails",
        "E2E",
    ),
];
