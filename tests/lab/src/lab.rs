//! The running lab as a test holds it: management cluster, MetalLB, hub, tenants, client. Knows who is there; how the lab comes
//! up is for [`crate::builder`], and how each of them works for the modules below.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use tokio::sync::OnceCell;

use crate::address::Node;
use crate::builder::Builder;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::control_plane::Duties;
use crate::error::{Error, Result};
use crate::fabric::CLIENT_NETNS;
use crate::hub::Hub;
use crate::isolation::Isolation;
use crate::metallb::Metallb;
use crate::parts::Parts;
use crate::site::Site;
use crate::tenant::Tenant;
use crate::{fabric, nodes, runtime};

/// The name of the management cluster.
pub const MANAGEMENT: &str = "management";
/// The tenant that is always there, with nodes on the fabric.
pub const ACME: &str = "acme";
/// A second tenant with nodes on the fabric, which starts when it is asked for.
pub const BRAVO: &str = "bravo";

/// The lab that all tests of a process share.
static SHARED: OnceCell<Lab> = OnceCell::const_new();

/// A running lab. Clones are the same lab; with the last one it ends, and with the process in any case.
#[derive(Debug, Clone)]
pub struct Lab {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    site: Arc<Site>,
    management: Arc<Cluster>,
    metallb: Metallb,
    hub: OnceCell<Hub>,
    hub_arguments: Vec<String>,
    acme: Arc<Cluster>,
    tenants: StdMutex<HashMap<String, Slot>>,
}

/// A tenant that somebody asked for, with its place among the clusters.
#[derive(Debug, Clone)]
struct Slot {
    index: u16,
    cluster: Arc<OnceCell<Arc<Cluster>>>,
    tenant: Arc<OnceCell<Tenant>>,
}

impl Lab {
    /// The lab shared by all tests of this process: with hand-made nodes, MetalLB and the hub. The first caller starts it.
    pub async fn start() -> Result<Self> {
        let lab = SHARED.get_or_try_init(|| Self::builder().start_own());
        lab.await.cloned()
    }

    /// For a lab of one's own.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Clusters that run, without a hub as yet.
    pub(crate) fn new(
        site: Arc<Site>,
        management: Cluster,
        metallb: Metallb,
        hub_arguments: Vec<String>,
        acme: Cluster,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                site,
                management: Arc::new(management),
                metallb,
                hub: OnceCell::new(),
                hub_arguments,
                acme: Arc::new(acme),
                tenants: StdMutex::default(),
            }),
        }
    }

    /// The management cluster.
    #[must_use]
    pub fn management(&self) -> &Cluster {
        &self.inner.management
    }

    /// MetalLB in the management cluster.
    #[must_use]
    pub fn metallb(&self) -> &Metallb {
        &self.inner.metallb
    }

    /// The hub.
    ///
    /// # Panics
    /// In a lab that was started without Berth.
    #[must_use]
    #[allow(
        clippy::expect_used,
        reason = "a test that starts the lab without Berth does not ask for it"
    )]
    pub fn hub(&self) -> &Hub {
        self.inner
            .hub
            .get()
            .expect("the lab was started with Berth")
    }

    /// Starts the hub in a lab that was told to start it later; in any other it runs already.
    pub async fn start_hub(&self) -> Result<&Hub> {
        let inner = self.inner.clone();
        let start = || {
            runtime::on(async move { Hub::start(&inner.management, &inner.hub_arguments).await })
        };
        self.inner.hub.get_or_try_init(start).await
    }

    /// The host beside the clusters.
    #[must_use]
    pub fn client(&self) -> Client {
        self.host(CLIENT_NETNS)
    }

    /// Any host on the fabric as one to run commands on and to send packets from: `client`, `m1`, `m2`, `a1`, `a2`, `b1`, `b2`.
    #[must_use]
    pub fn host(&self, name: &str) -> Client {
        let control = &self.inner.site.sandbox.control;
        Client::new(self.has_packets().then(|| control.clone()), name)
    }

    /// The cluster `acme` without anything of Berth.
    #[must_use]
    pub fn acme(&self) -> &Cluster {
        &self.inner.acme
    }

    /// The tenant of that name, with a cluster and an agent of its own: admitted to the hub, and connected when this returns.
    pub async fn tenant(&self, name: &str) -> Result<Tenant> {
        let slot = self.slot(name);
        let cluster = self.cluster(name).await?;
        let inner = self.inner.clone();
        let join = || {
            runtime::on(async move {
                let hub = inner.hub.get();
                let hub = hub.ok_or_else(|| Error::Start("this lab has no hub".into()))?;
                Tenant::join(hub, &inner.management, cluster).await
            })
        };
        slot.tenant.get_or_try_init(join).await.cloned()
    }

    /// The cluster of the tenant of that name, without anything of Berth as yet. `acme` and `bravo` have nodes on the fabric; any
    /// other is a control plane and two nodes in name only. All but `acme` are started now (3 s).
    pub async fn cluster(&self, name: &str) -> Result<Arc<Cluster>> {
        if name == ACME {
            return Ok(self.inner.acme.clone());
        }
        let slot = self.slot(name);
        let site = self.inner.site.clone();
        let name = name.to_owned();
        let start = || {
            runtime::on(async move {
                let on_fabric = Node::of(&name).next().is_some();
                let duties = Duties {
                    scheduler: on_fabric,
                    ..Duties::default()
                };
                let cluster = Cluster::start(site, &name, slot.index, duties).await?;
                match on_fabric {
                    true => nodes::start(&cluster, false).await?,
                    false => nodes::register(&cluster).await?,
                }
                Ok(Arc::new(cluster))
            })
        };
        slot.cluster.get_or_try_init(start).await.cloned()
    }

    /// Pulls a host's cable: `m1`, `m2`, `a1`, `a2`, `b1`, `b2` or `client`. Connections over it stay open and hear nothing.
    pub async fn cut(&self, host: &str) -> Result<()> {
        fabric::link(&self.inner.site.sandbox.control, host, "down").await
    }

    /// Plugs a host's cable in again.
    pub async fn heal(&self, host: &str) -> Result<()> {
        fabric::link(&self.inner.site.sandbox.control, host, "up").await
    }

    /// Whether packets flow: not where the kernel forbids namespaces.
    #[must_use]
    pub fn has_packets(&self) -> bool {
        self.inner.site.has_packets()
    }

    /// What separates the lab from the machine.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        self.inner.site.sandbox.isolation
    }

    /// Where the lab's files are; gone when it ends.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.inner.site.sandbox.run_dir.path()
    }

    /// One of this project's own programs, for running it on the host: `berth-hub`, `berth-agent`.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.inner.site.programs.join(name)
    }

    /// The real programs: `lab.parts().path("grpcurl")`.
    #[must_use]
    pub fn parts(&self) -> &Parts {
        &self.inner.site.parts
    }

    /// Ends the lab and waits until nothing of it is left.
    pub async fn stop(self) -> Result<()> {
        runtime::on(async move { self.inner.site.sandbox.stop().await }).await
    }

    /// Waits until the lab has ended by itself: `lab down`, or the death of its first process.
    pub async fn ended(&self) -> Result<()> {
        self.inner.site.sandbox.control.ended().await
    }

    fn slot(&self, name: &str) -> Slot {
        let tenants = self.inner.tenants.lock();
        let mut tenants = tenants.unwrap_or_else(PoisonError::into_inner);
        // 0 is management, 1 is acme.
        let index = match name {
            ACME => 1,
            _ => u16::try_from(tenants.len() + 2).unwrap_or(u16::MAX),
        };
        let new = || Slot {
            index,
            cluster: Arc::default(),
            tenant: Arc::default(),
        };
        tenants.entry(name.to_owned()).or_insert_with(new).clone()
    }
}
