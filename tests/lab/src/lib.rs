//! The lab: real Kubernetes clusters on this machine, without Docker and without root.
//!
//! Two clusters (management and the tenant `acme`), each with API server, etcd, controller manager, scheduler and two nodes,
//! MetalLB, and a client host share one network, inside namespaces that end with the process that started them. The hub and
//! the agents run there as their own processes with the rights that the project's charts give them.
//!
//! ```ignore
//! let lab = Lab::start().await?;
//! let acme = lab.tenant("acme").await?;
//! let namespace = acme.namespace().await?;
//! acme.apply_in(&namespace, include_str!("backend.yaml")).await?;
//! let ip = acme.await_ip(&namespace, "backend").await?;
//! let answer = lab.client().await_get(&format!("http://{ip}:3000/"), SECONDS_10).await?;
//! acme.agent().kill().await?;
//! ```
//!
//! From outside in: [`builder`] says in which order things come up, [`lab`], [`cluster`], [`hub`] and [`tenant`] are what tests hold,
//! `sandbox` starts the inside through `keeper`, and `init` is that inside. `protocol` is what the two say to each other.

pub mod address;
mod binaries;
pub mod builder;
mod charts;
pub mod check;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod control;
mod control_plane;
mod demo;
pub mod error;
mod fabric;
mod forward;
mod http;
pub mod hub;
pub mod image;
mod init;
pub mod isolation;
mod keeper;
mod kubeconfig;
pub mod kubelet;
pub mod lab;
mod manifests;
pub mod metallb;
mod nodes;
pub mod packages;
pub mod parts;
mod pki;
mod pods;
pub mod process;
pub mod program;
pub mod progress;
mod protocol;
mod run_dir;
mod runtime;
mod sandbox;
mod shell;
mod site;
pub mod tenant;
pub mod traffic;
pub mod wait;
pub mod workload;
pub mod writes;

pub use builder::Builder;
pub use charts::Installed;
pub use cluster::Cluster;
pub use error::{Error, Result};
pub use hub::Hub;
pub use lab::Lab;
pub use process::Process;
pub use program::Program;
pub use protocol::Exit;
pub use tenant::{Tenant, await_ip};
pub use traffic::Traffic;
pub use wait::{Seen, eventually};
pub use writes::{Audit, Write, Writes};
