//! How a lab comes up: what it is to have, and in which order that starts. Knows the order and says how long each step took;
//! how each thing starts is for the modules below.

use std::sync::Arc;
use std::time::Instant;

use crate::cluster::Cluster;
use crate::control_plane::Duties;
use crate::error::{Context, Error, Result};
use crate::isolation::Isolation;
use crate::lab::{ACME, Lab, MANAGEMENT};
use crate::metallb::{self, Metallb};
use crate::parts::{Needs, Parts};
use crate::progress::{Progress, Silent};
use crate::sandbox::Sandbox;
use crate::site::Site;
use crate::{binaries, fabric, nodes, packages, runtime, shell};

/// How a lab is to be. From [`Lab::builder`].
pub struct Builder {
    as_nobody: bool,
    loopback: bool,
    kubelets: bool,
    berth: bool,
    hub: bool,
    hub_arguments: Vec<String>,
    progress: Box<dyn Progress>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            as_nobody: false,
            loopback: false,
            kubelets: false,
            berth: true,
            hub: true,
            hub_arguments: Vec::new(),
            progress: Box::new(Silent),
        }
    }

    /// As an ordinary user, though this process may be root.
    #[must_use]
    pub fn rootless(mut self) -> Self {
        self.as_nobody = nix::unistd::geteuid().is_root();
        self
    }

    /// Without namespaces, though they are to be had: everything listens on the machine's own 127.0.0.1, where a test can be any
    /// peer with sockets of its own. No packet reaches a load balancer.
    #[must_use]
    pub fn loopback(mut self) -> Self {
        self.loopback = true;
        self
    }

    /// With real kubelets and containers, where the user may have them; otherwise nodes and pods are hand-made.
    #[must_use]
    pub fn kubelets(mut self, wanted: bool) -> Self {
        self.kubelets = wanted;
        self
    }

    /// Without hub and agents: Kubernetes and MetalLB only.
    #[must_use]
    pub fn without_berth(mut self) -> Self {
        self.berth = false;
        self
    }

    /// With everything for Berth in place, but the hub started only by [`Lab::start_hub`].
    #[must_use]
    pub fn hub_later(mut self) -> Self {
        self.hub = false;
        self
    }

    /// With a hub that is told more on its command line: `--management-cidrs=10.0.0.0/16`. `{ca}` stands for the directory of its
    /// CA.
    #[must_use]
    pub fn hub_arguments(mut self, arguments: &[&str]) -> Self {
        self.hub_arguments = arguments.iter().map(|&it| it.to_owned()).collect();
        self
    }

    /// Telling somebody what happens.
    #[must_use]
    pub fn progress(mut self, progress: impl Progress + 'static) -> Self {
        self.progress = Box::new(progress);
        self
    }

    /// Starts a lab of the caller's own.
    pub async fn start_own(self) -> Result<Lab> {
        runtime::on(self.start()).await
    }

    async fn start(mut self) -> Result<Lab> {
        let (as_nobody, wanted) = (self.as_nobody, self.kubelets);
        let isolation = self.isolation();
        let (berth, hub) = (self.berth, self.berth && self.hub);
        let hub_arguments = std::mem::take(&mut self.hub_arguments);
        let found = tokio::task::spawn_blocking(move || {
            let parts = self.parts()?;
            Ok::<_, Error>((parts, Steps::new(self.progress)))
        });
        let (parts, mut steps) = found.await.context("the search for parts failed")??;
        let programs = binaries::directory(berth).await?;
        steps.done("programs are built");

        let sandbox = Sandbox::start(isolation, as_nobody, &programs, parts.bin()).await?;
        let kubelets = wanted && can_have_kubelets(sandbox.isolation, as_nobody);
        let site = Arc::new(Site::new(sandbox, parts, programs));
        let lab = match bring_up(&site, kubelets, hub_arguments, &mut steps).await {
            Ok(lab) => lab,
            Err(error) => {
                // What went wrong matters more than that ending what there is went wrong too.
                let _ = site.sandbox.stop().await;
                return Err(error);
            }
        };
        if hub {
            lab.start_hub().await?;
            steps.done("hub is ready");
        }
        Ok(lab)
    }

    fn isolation(&self) -> Isolation {
        match self.loopback {
            true => Isolation::Loopback,
            false => Isolation::detect(self.as_nobody),
        }
    }

    /// Finds or builds what the lab is made of. Blocks.
    fn parts(&mut self) -> Result<Parts> {
        let needs = Needs {
            nodes: true,
            kubelets: self.kubelets,
            tools: true,
        };
        // Without a network nothing of the system is called.
        let system = match self.isolation().has_packets() {
            true => needs,
            false => Needs::CONTROL_PLANES,
        };
        packages::ensure(system, &mut *self.progress)
            .context("the lab needs programs of the system")?;
        Parts::locate_or_build(needs, &mut *self.progress).context("the lab needs its parts")
    }
}

/// Everything but Berth.
async fn bring_up(
    site: &Arc<Site>,
    kubelets: bool,
    hub_arguments: Vec<String>,
    steps: &mut Steps,
) -> Result<Lab> {
    shell::write_rc(site)?;
    if site.has_packets() {
        fabric::build(&site.sandbox.control).await?;
    }
    steps.done("network fabric is up");
    let duties = Duties {
        kubelets,
        scheduler: true,
    };
    let (management, acme) = tokio::try_join!(
        Cluster::start(site.clone(), MANAGEMENT, 0, duties),
        Cluster::start(site.clone(), ACME, 1, duties),
    )?;
    steps.done("control planes of both clusters serve");

    let (metallb, ()) = tokio::try_join!(
        async {
            nodes::start(&management, kubelets).await?;
            let metallb = Metallb::start(&management).await?;
            management.apply(&metallb::tutorial_pool()).await?;
            Ok(metallb)
        },
        nodes::start(&acme, kubelets),
    )?;
    steps.done("nodes are registered, MetalLB has its pool");
    if kubelets {
        nodes::await_ready(&management).await?;
        nodes::await_ready(&acme).await?;
        steps.done("kubelets are ready");
    }
    Ok(Lab::new(
        site.clone(),
        management,
        metallb,
        hub_arguments,
        acme,
    ))
}

/// Kubelets need cgroups, or subordinate ids to do without.
fn can_have_kubelets(isolation: Isolation, as_nobody: bool) -> bool {
    match isolation {
        Isolation::Root => true,
        Isolation::User { subordinate } => subordinate && !as_nobody,
        Isolation::Loopback => false,
    }
}

/// Says how long each step took.
struct Steps {
    progress: Box<dyn Progress>,
    since: Instant,
}

impl Steps {
    fn new(progress: Box<dyn Progress>) -> Self {
        Self {
            progress,
            since: Instant::now(),
        }
    }

    fn done(&mut self, what: &str) {
        let took = self.since.elapsed().as_secs_f32();
        self.progress.note(&format!("{took:5.1} s  {what}"));
        self.since = Instant::now();
    }
}
