//! Berth end to end, on real parts: real API servers, the real MetalLB, real kube-proxies, real packets, and hub and agents
//! as processes under the rights of the project's own charts. One lab serves all tests of this binary.

mod certificates;
mod commands;
mod doctor;
mod grpcurl;
mod health;
mod operator;
mod outages;
mod parking;
mod refusals;
mod restarts;
mod support;
mod tutorial;
mod uninstall;
