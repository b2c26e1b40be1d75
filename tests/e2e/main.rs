//! Berth end to end, on real parts: real API servers, the real MetalLB, real kube-proxies, real packets, and hub and agents
//! as processes under the rights of the project's own charts. One lab serves all tests of this binary.

mod annotations;
mod backends;
mod certificates;
mod commands;
mod departures;
mod doctor;
mod enforce;
mod families;
mod grpcurl;
mod health;
mod kinds;
mod nodes;
mod operator;
mod outages;
mod ownership;
mod parking;
mod ports;
mod quiet;
mod quotas;
mod refusals;
mod restarts;
mod restless;
mod spec;
mod status;
mod support;
mod survival;
mod trail;
mod tutorial;
mod uninstall;
