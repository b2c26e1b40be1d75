//! Tenants under arbitrary policies, with arbitrary nodes and Services, among one another's addresses: whatever policy and wishes
//! say, and in whatever order they change, no slice gets an address or a port that it must not have, and no management Service an
//! annotation, an address or a class that nobody allowed.

mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use arbitrary::{Arbitrary, Unstructured};
use berth_common::{
    annotations::never,
    identity::TenantName,
    model::{Body, Generation, Ingress, Key, NodeName, ServiceKey},
    wire::{key_to_wire, resource_from_wire},
};
use berth_hub::{
    api::{Tenant, TenantSpec},
    objects::{
        Id, Kind,
        backend_slice::ObservedSlice,
        record::{self, ObservedRecord},
        service::{HUBS_OWN, ObservedService, ServiceShape},
    },
    observe::TenantFacts,
    plan::{Allocator, Nodes, Now, Observed, Policy, Seen, Want, Write, is_node_port, plan},
    policy::{Claims, networks},
};
use berth_wire::v1;
use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use words::{ADDRESSES, Rules, Wish, Word};

/// The management cluster's own, in every run.
const MANAGEMENT: &str = "10.0.0.0/24, fd00::/64";
/// How often a plan is carried out before it must have come to rest.
const ROUNDS: usize = 12;

#[derive(Arbitrary, Debug)]
enum Event<'a> {
    Policy(bool, Rules<'a>),
    Wishes(bool, u8, Wish<'a>),
    Deletes(bool, u8),
    Nodes(bool, Vec<(u8, Vec<Word<'a>>)>),
    /// The allocator gives what it is told to, or this.
    Allocates(bool, u8, Word<'a>),
}

/// One load balancer.
struct Standing {
    id: Id,
    want: Want,
    observed: Observed,
    record: Value,
    /// What the allocator gave, over its whole life.
    given: Vec<IpAddr>,
}

struct Cluster {
    name: TenantName,
    facts: TenantFacts,
    nodes: Arc<Nodes>,
    services: Vec<Standing>,
    /// Addresses that have received its traffic.
    served: BTreeSet<IpAddr>,
}

struct World {
    claims: Claims,
    clusters: [Cluster; 2],
    management: Arc<[IpNet]>,
    now: Now,
    version: u64,
}

/// See the module.
pub fn run(data: &[u8]) {
    let mut unstructured = Unstructured::new(data);
    let mut world = World::new();
    let mut events = 0;
    while !unstructured.is_empty()
        && events < 64
        && let Ok(event) = unstructured.arbitrary::<Event<'_>>()
    {
        events += 1;
        world.happen(&event);
        world.settle();
        world.check();
    }
}

fn facts(name: &TenantName, spec: TenantSpec, management: &Arc<[IpNet]>) -> TenantFacts {
    let mut tenant = Tenant::new(name.as_str(), spec);
    tenant.metadata.uid = Some("u".into());
    TenantFacts::read(tenant, management)
        .expect("a Tenant with name and UID")
        .1
}

impl World {
    fn new() -> Self {
        let management: Arc<[IpNet]> = networks(MANAGEMENT).expect("networks").into();
        let cluster = |name: &str| {
            let name = TenantName::parse(name).expect("a name");
            let standing = |at: usize| Standing {
                id: Id::new(name.clone(), ServiceKey::new("default", format!("s{at}"))),
                want: Want::Unknown,
                observed: Observed::default(),
                record: Value::Null,
                given: Vec::new(),
            };
            Cluster {
                facts: facts(&name, TenantSpec::default(), &management),
                nodes: Arc::default(),
                services: (0..3).map(standing).collect(),
                served: BTreeSet::new(),
                name,
            }
        };
        Self {
            claims: Claims::default(),
            clusters: [cluster("acme"), cluster("bravo")],
            management: management.clone(),
            now: Now {
                instant: Instant::now(),
                wall: Timestamp::UNIX_EPOCH,
            },
            version: 0,
        }
    }

    fn happen(&mut self, event: &Event<'_>) {
        self.now.instant += Duration::from_millis(10);
        match event {
            Event::Policy(second, rules) => {
                let management = self.management.clone();
                let cluster = &mut self.clusters[usize::from(*second)];
                cluster.facts = facts(&cluster.name, rules.spec(), &management);
            }
            Event::Wishes(second, at, wish) => {
                self.version += 1;
                let generation = Generation(self.version);
                let cluster = &mut self.clusters[usize::from(*second)];
                let nodes = cluster.nodes.clone();
                let standing = &mut cluster.services[usize::from(*at) % 3];
                if let Some(service) = wish.service(&standing.id.key) {
                    standing.want = Want::Present {
                        generation,
                        service: Arc::new(service),
                        nodes,
                    };
                }
            }
            Event::Deletes(second, at) => {
                let services = &mut self.clusters[usize::from(*second)].services;
                services[usize::from(*at) % 3].want = Want::Deleted;
            }
            Event::Nodes(second, nodes) => {
                let nodes = nodes.iter().take(6).filter_map(|(name, addresses)| {
                    let name = NodeName(format!("n{}", name % 4));
                    let addresses = addresses.iter().map(|word| word.of(&ADDRESSES)).collect();
                    let resource = v1::Resource {
                        key: Some(key_to_wire(&Key::Node(name.clone()))),
                        generation: 1,
                        body: Some(v1::resource::Body::Node(v1::Node { addresses })),
                    };
                    match resource_from_wire(&resource).ok()?.1.body {
                        Body::Node(node) => Some((name, node)),
                        Body::Service(_) => None,
                    }
                });
                let nodes: Arc<Nodes> = Arc::new(nodes.collect());
                let cluster = &mut self.clusters[usize::from(*second)];
                cluster.nodes = nodes.clone();
                for standing in &mut cluster.services {
                    if let Want::Present { nodes: known, .. } = &mut standing.want {
                        *known = nodes.clone();
                    }
                }
            }
            Event::Allocates(second, at, word) => self.allocate(*second, *at, word),
        }
    }

    fn allocate(&mut self, second: bool, at: u8, word: &Word<'_>) {
        let standing = &mut self.clusters[usize::from(second)].services[usize::from(at) % 3];
        let Some(seen) = standing.observed.service.as_deref().cloned() else {
            return;
        };
        let before = ips(&seen.object.ingress);
        let pin = &seen.object.shape.steering.pin;
        let given: Vec<IpAddr> = if pin.is_empty() {
            word.of(&ADDRESSES).parse().into_iter().collect()
        } else {
            pin.iter().copied().collect()
        };
        let mut seen = seen;
        seen.object.ingress = given.iter().copied().map(Ingress::Ip).collect();
        standing.given.extend(&given);
        let tenant = &standing.id.tenant;
        standing.observed.service = Some(Arc::new(seen));
        self.claims.frontends(
            tenant,
            &before.into_iter().collect(),
            &given.into_iter().collect(),
        );
    }

    /// Plans everything until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..ROUNDS {
            self.claims.take_disputed();
            let mut rests = true;
            for cluster in 0..self.clusters.len() {
                for service in 0..3 {
                    rests &= self.plan(cluster, service);
                }
            }
            if rests && !self.claims.is_disputed() {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// Carries out one plan, and says whether there was nothing to do.
    fn plan(&mut self, cluster: usize, service: usize) -> bool {
        let cluster = &mut self.clusters[cluster];
        let policy = cluster.facts.policy(Allocator::MetalLb);
        let barred = match self
            .claims
            .known(&cluster.name, &cluster.nodes, &policy.nodes)
        {
            Some(barred) => barred,
            None => {
                let judged = self
                    .claims
                    .judge(&cluster.name, &cluster.nodes, &policy.nodes);
                judged.barred
            }
        };
        let standing = &mut cluster.services[service];
        standing.observed.barred = Some(barred);
        // Whoever waits for addresses has them released at once here.
        standing.observed.released = true;
        let Standing {
            id, want, observed, ..
        } = standing;
        let plan = plan(id, want, observed, &policy, self.now);
        let rests = plan.actions.is_empty();
        for action in plan.actions {
            self.version += 1;
            standing.write(
                action.write,
                &policy,
                (&mut self.claims, &mut cluster.served),
                self.version,
                self.now,
            );
        }
        rests
    }

    /// What holds whenever everything has come to rest.
    fn check(&self) {
        let mut backends: BTreeMap<IpAddr, &TenantName> = BTreeMap::new();
        let frontends: Vec<IpAddr> = self
            .services()
            .filter_map(|(_, standing)| standing.observed.service.as_ref())
            .flat_map(|seen| ips(&seen.object.ingress))
            .collect();
        for (tenant, standing) in self.services() {
            for ip in addresses(&standing.observed) {
                assert!(!frontends.contains(&ip), "{ip} is a load balancer's");
                let other = backends.insert(ip, tenant).filter(|other| *other != tenant);
                assert_eq!(other, None, "{ip} is another tenant's");
                let own = self.management.iter().any(|network| network.contains(&ip));
                assert!(!own && !is_nobodys(&ip), "{ip}");
            }
        }
    }

    fn services(&self) -> impl Iterator<Item = (&TenantName, &Standing)> {
        self.clusters
            .iter()
            .flat_map(|cluster| cluster.services.iter().map(move |it| (&cluster.name, it)))
    }
}

impl Standing {
    fn write(
        &mut self,
        write: Write,
        policy: &Policy,
        (claims, served): (&mut Claims, &mut BTreeSet<IpAddr>),
        version: u64,
        now: Now,
    ) {
        let id = self.id.clone();
        let uid = |given: Option<String>| given.unwrap_or_else(|| format!("u{version}"));
        match write {
            Write::StripService { uid: given, shape } => {
                self.service(Some(given), shape, policy, version, now);
            }
            Write::Service { uid: given, shape } => {
                self.service(given, shape, policy, version, now);
            }
            Write::Slice {
                uid: given,
                place,
                shape,
            } => {
                let before = self.observed.slices.get(&place);
                let before = before.map_or(Vec::new(), |seen| seen.object.shape.addresses.clone());
                // What served already when it was judged stays where policy is not enforced, for all Services of the tenant.
                let stays = |ip: &&IpAddr| !policy.nodes.enforce && served.contains(*ip);
                for ip in shape.addresses.iter().filter(|ip| !stays(ip)) {
                    let outside = !policy.nodes.allowed.is_empty()
                        && !policy.nodes.allowed.iter().any(|net| net.contains(ip));
                    assert!(!outside, "{ip} is outside of {:?}", policy.nodes.allowed);
                }
                for (_, port) in shape.ports.values() {
                    assert!(is_node_port(*port), "{port}");
                }
                served.extend(&shape.addresses);
                claims.backends(&id.tenant, &before, &shape.addresses);
                let object = serde_json::from_value(shape.manifest(&id, place)).expect("a slice");
                let (read, object) = ObservedSlice::from_object(&id, &object).expect("ours");
                assert_eq!(
                    (read, &object.shape),
                    (place, &shape),
                    "it reads as written"
                );
                let seen = seen(uid(given), version, now, object);
                self.observed.slices.insert(place, seen);
            }
            Write::Record { uid: given, spec } => {
                let status = self.record["status"].take();
                let generation = self.record["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
                self.record = record::manifest(&id, &spec);
                self.record["metadata"]["generation"] = json!(generation);
                self.record["status"] = status;
                self.read_record(uid(given), version, now);
            }
            Write::Status { shape, now: wall } => {
                let Some(seen) = self.observed.record.clone() else {
                    return;
                };
                let manifest = shape.manifest(&id, seen.object.status.as_ref(), wall);
                self.record["status"] = manifest["status"].clone();
                self.read_record(seen.uid.clone(), version, now);
            }
            Write::Delete {
                kind: Kind::Service,
                ..
            } => {
                let gone = self.observed.service.take();
                let before = gone.map_or(Vec::new(), |seen| ips(&seen.object.ingress));
                claims.frontends(
                    &id.tenant,
                    &before.into_iter().collect(),
                    &Default::default(),
                );
            }
            Write::Delete {
                kind: Kind::LoadBalancer,
                ..
            } => {
                self.observed.record = None;
                self.record = Value::Null;
            }
            Write::Delete {
                kind: Kind::EndpointSlice,
                place,
                ..
            } => {
                let gone = place.and_then(|place| self.observed.slices.remove(&place));
                let before = gone.map_or(Vec::new(), |seen| seen.object.shape.addresses.clone());
                claims.backends(&id.tenant, &before, &[]);
            }
        }
    }

    fn service(
        &mut self,
        uid: Option<String>,
        shape: ServiceShape,
        policy: &Policy,
        version: u64,
        now: Now,
    ) {
        for (key, value) in &shape.annotations {
            let injected = policy.annotations.injected.contains_key(key);
            let passes = policy.annotations.allowed.passes(key) && !never(key);
            assert!(injected || passes, "{key} passes");
            assert!(!HUBS_OWN.contains(&key.as_str()), "{key} is the hub's");
            if key.ends_with("allow-shared-ip") {
                assert!(
                    value.starts_with(&format!("{}/", self.id.tenant)),
                    "{value}"
                );
            }
        }
        for ip in &shape.steering.pin {
            let requestable = policy.requestable.iter().any(|net| net.contains(ip));
            let known = self.given.contains(ip) || self.pinned().contains(ip);
            assert!(requestable || known, "{ip} may not be asked for");
            assert!(!is_nobodys(ip), "{ip}");
        }
        let kept = self.observed.service.clone();
        let class = kept
            .as_ref()
            .map_or(&policy.class, |seen| &seen.object.shape.class);
        assert_eq!(&shape.class, class, "a class is chosen once");
        let object = serde_json::from_value(shape.manifest(&self.id)).expect("a Service");
        let mut object = ObservedService::from_object(&self.id, &object);
        object.ingress = kept.map_or_else(Vec::new, |seen| seen.object.ingress.clone());
        // Whose they are stands in what the API server alone writes.
        object.shape.annotations = shape.annotations.clone();
        assert_eq!(object.shape, shape, "it reads as written");
        let uid = uid.unwrap_or_else(|| format!("u{version}"));
        self.observed.service = Some(seen(uid, version, now, object));
    }

    /// What the Service is told to have now: it stays, even if a later policy would not have given it.
    fn pinned(&self) -> Vec<IpAddr> {
        let service = self.observed.service.iter();
        service
            .flat_map(|seen| seen.object.shape.steering.pin.clone())
            .collect()
    }

    fn read_record(&mut self, uid: String, version: u64, now: Now) {
        let object = serde_json::from_value(self.record.clone()).expect("a record");
        let object = ObservedRecord::from_object(&self.id, &object);
        self.observed.record = Some(seen(uid, version, now, object));
    }
}

fn seen<T>(uid: String, version: u64, now: Now, object: T) -> Arc<Seen<T>> {
    Arc::new(Seen {
        uid,
        version,
        deleting: false,
        since: now.instant,
        object,
    })
}

fn addresses(observed: &Observed) -> Vec<IpAddr> {
    let slices = observed.slices.values();
    slices
        .flat_map(|seen| seen.object.shape.addresses.iter().copied())
        .collect()
}

fn ips(ingress: &[Ingress]) -> Vec<IpAddr> {
    let ip = |ingress: &Ingress| match ingress {
        Ingress::Ip(ip) => Some(*ip),
        Ingress::Hostname(_) => None,
    };
    ingress.iter().filter_map(ip).collect()
}

/// Addresses that no machine of a tenant has, in the words of the standard library.
fn is_nobodys(ip: &IpAddr) -> bool {
    let v4 = |ip: &Ipv4Addr| {
        ip.is_loopback()
            || ip.is_link_local()
            || ip.is_multicast()
            || ip.is_broadcast()
            || ip.is_unspecified()
    };
    match ip {
        IpAddr::V4(ip) => v4(ip),
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_multicast()
                || ip.is_unspecified()
                || ip.to_ipv4_mapped().is_some()
                || Ipv6Addr::is_unicast_link_local(ip)
        }
    }
}
