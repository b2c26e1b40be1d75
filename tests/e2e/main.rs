//! Berth end to end, on real parts: real API servers, the real MetalLB, real kube-proxies, real packets, and hub and agents
//! as processes under the rights of the project's own charts. One lab serves all tests of this binary.

mod backends;
mod certificates;
mod commands;
mod doctor;
mod grpcurl;
mod health;
mod kinds;
mod nodes;
mod operator;
mod outages;
mod parking;
mod quiet;
mod refusals;
mod restarts;
mod status;
mod support;
mod survival;
mod tutorial;
mod uninstall;
