//! Berth end to end, on real parts: real API servers, the real MetalLB, real kube-proxies, real packets, and hub and agents
//! as processes under the rights of the project's own charts. One lab serves all tests of this binary.

mod annotations;
mod certificates;
mod commands;
mod doctor;
mod families;
mod grpcurl;
mod health;
mod operator;
mod outages;
mod ownership;
mod parking;
mod ports;
mod refusals;
mod restarts;
mod spec;
mod support;
mod tutorial;
mod uninstall;
