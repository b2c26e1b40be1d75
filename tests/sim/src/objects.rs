//! The objects of one load balancer as they truly are, and what the judge wants to know of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use berth_common::model::Ingress;
use berth_hub::objects::{
    KEPT,
    backend_slice::{ObservedSlice, Place},
    record::ObservedRecord,
    service::ObservedService,
};

use crate::management::Stored;

/// The objects of one load balancer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Objects {
    pub(crate) service: Option<Stored<ObservedService>>,
    pub(crate) record: Option<Stored<ObservedRecord>>,
    pub(crate) slices: BTreeMap<Place, Stored<ObservedSlice>>,
}

impl Objects {
    pub(crate) fn is_empty(&self) -> bool {
        self.service.is_none() && self.record.is_none() && self.slices.is_empty()
    }

    /// The addresses that stand anywhere as this load balancer's: given, pinned and on record.
    pub(crate) fn claims(&self) -> BTreeSet<IpAddr> {
        let mut claims: BTreeSet<IpAddr> = self.given().into_iter().collect();
        claims.extend(self.pinned());
        claims.extend(self.recorded());
        claims
    }

    pub(crate) fn given(&self) -> Vec<IpAddr> {
        self.service
            .as_ref()
            .map_or_else(Vec::new, |service| ips(&service.object.ingress))
    }

    pub(crate) fn pinned(&self) -> BTreeSet<IpAddr> {
        self.service.as_ref().map_or_else(BTreeSet::new, |service| {
            service.object.shape.steering.pin.clone()
        })
    }

    pub(crate) fn recorded(&self) -> Vec<IpAddr> {
        self.record
            .as_ref()
            .map_or_else(Vec::new, |record| ips(record.object.addresses()))
    }
}

impl Objects {
    /// Whether traffic has no way.
    pub(crate) fn is_cut(&self) -> bool {
        self.record.is_none() && self.slices.is_empty()
    }

    /// Service and record, where both are there and to stay.
    pub(crate) fn uids(&self) -> Option<(u64, u64)> {
        let service = self.service.as_ref().filter(|it| !it.deleting)?;
        let record = self.record.as_ref().filter(|it| !it.deleting)?;
        Some((service.uid, record.uid))
    }

    /// Whether its Service says that it is kept for a Tenant that is gone.
    pub(crate) fn is_marked(&self) -> bool {
        let service = self.service.iter();
        let mut shapes = service.map(|it| &it.object.shape);
        shapes.any(|shape| shape.annotations.contains_key(KEPT))
    }

    /// Whether nothing is served, and nothing is left but an address that is kept for good, if that.
    pub(crate) fn rests(&self) -> bool {
        let reserved = |record: &Stored<ObservedRecord>| {
            let status = record.object.status.as_ref();
            let shape = status.and_then(|status| status.shape.as_ref());
            shape.is_some_and(|it| it.programmed.reason == "Reserved")
        };
        self.slices.is_empty() && self.record.as_ref().is_none_or(reserved)
    }

    /// How many ports count, where anything does: those of whichever has more.
    pub(crate) fn ports(&self) -> Option<usize> {
        let service = self.service.as_ref().map(|it| it.object.shape.ports.len());
        let record = self.record.as_ref().map(|it| it.object.spec.ports.len());
        service.max(record)
    }

    /// The address that is all that is left.
    pub(crate) fn parked(&self) -> Option<IpAddr> {
        let service = self.service.as_ref().filter(|it| !it.deleting)?;
        let given = ips(&service.object.ingress);
        let pinned = self.pinned();
        let alone = self.is_cut() && pinned.iter().all(|ip| given.contains(ip));
        given.first().filter(|_| alone).copied()
    }

    /// The address that everybody who looks knows of: given, and pinned by one who knew that.
    pub(crate) fn safe(&self) -> Option<IpAddr> {
        let service = self.service.as_ref().filter(|it| !it.deleting)?;
        let given = ips(&service.object.ingress);
        given
            .first()
            .filter(|ip| self.pinned().contains(ip))
            .copied()
    }

    /// The node ports of the version on record.
    pub(crate) fn recorded_ports(&self) -> BTreeSet<u16> {
        let record = self.record.iter();
        let ports = record.flat_map(|record| &record.object.spec.ports);
        ports.map(|port| port.node_port).collect()
    }
}

/// The addresses without host names.
pub(crate) fn ips(ingress: &[Ingress]) -> Vec<IpAddr> {
    ingress
        .iter()
        .filter_map(|ingress| match ingress {
            Ingress::Ip(ip) => Some(*ip),
            Ingress::Hostname(_) => None,
        })
        .collect()
}
