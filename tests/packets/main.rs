//! The data path, with packets: a client beside the clusters asks an address that a real MetalLB speaker announces, and a pod of a
//! tenant answers, through two real kube-proxies. One lab serves all tests of this binary. A test that fails prints what went where.

mod affinity;
mod arrivals;
mod dead;
mod evidence;
mod local;
mod nodes;
mod ports;
mod ranges;
mod reach;
mod returns;
mod rolling;
mod support;
mod unavailable;
