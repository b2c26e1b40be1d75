//! Which Services are this agent's to serve, and which finalizer tells so (points 1 to 4). Pure; it looks at one
//! Service at a time and never at another product's marks.

use std::collections::BTreeSet;

use crate::project::{SeenService, Wish};

/// Berth's own finalizer, for Services with a class: the standard one would be stripped by a cloud controller, whatever
/// the class, and the load balancer orphaned.
pub const OWN_FINALIZER: &str = "berth.dev/load-balancer";
/// KEP-980's finalizer, for Services without a class: Berth is then that cluster's provider.
pub const STANDARD_FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// Which Services are served.
#[derive(Clone, Debug)]
pub struct Claims {
    /// Services without a class too.
    pub classless: bool,
    /// The classes served.
    pub classes: BTreeSet<String>,
}

/// How a Service stands to this agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It wants a load balancer from us.
    Wanted,
    /// It is being deleted, or wants none from us any more, and still carries marks of ours.
    Leaving,
    /// Not ours.
    Foreign,
}

impl Claims {
    /// How a Service stands to this agent.
    pub fn standing(&self, seen: &SeenService) -> Standing {
        let claimed = seen
            .wish
            .as_ref()
            .is_some_and(|wish| self.match_class(wish));
        if claimed && !seen.deleting {
            Standing::Wanted
        } else if claimed || seen.status.ours || self.finalizers_of_ours(seen).next().is_some() {
            Standing::Leaving
        } else {
            Standing::Foreign
        }
    }

    /// The finalizers as they should be: with ours where the Service is wanted and without where it may go; those of
    /// others as they are. None: nothing is to be changed.
    pub fn finalizers(&self, seen: &SeenService, keep: bool) -> Option<Vec<String>> {
        let wanted = match (&seen.wish, keep) {
            (Some(wish), true) if wish.class.is_some() => Some(OWN_FINALIZER),
            (Some(_), true) => Some(STANDARD_FINALIZER),
            _ => None,
        };
        let ours: BTreeSet<&str> = self.finalizers_of_ours(seen).collect();
        let mut next: Vec<String> = seen
            .finalizers
            .iter()
            .filter(|f| Some(f.as_str()) == wanted || !ours.contains(f.as_str()))
            .cloned()
            .collect();
        // Kubernetes allows no new finalizer on an object that is being deleted.
        if let Some(wanted) = wanted
            && !seen.deleting
            && !next.iter().any(|f| f == wanted)
        {
            next.push(wanted.to_owned());
        }
        (next != seen.finalizers).then_some(next)
    }

    /// The standard finalizer is shared with every other provider: it is ours where the cluster's classless Services
    /// are, or where the status proves that the Service was.
    fn finalizers_of_ours<'a>(&'a self, seen: &'a SeenService) -> impl Iterator<Item = &'a str> {
        let has_class = seen.wish.as_ref().is_some_and(|wish| wish.class.is_some());
        let standard = seen.status.ours || (self.classless && !has_class);
        seen.finalizers
            .iter()
            .map(String::as_str)
            .filter(move |f| *f == OWN_FINALIZER || (standard && *f == STANDARD_FINALIZER))
    }

    /// Whether nothing but our status tells that the standard finalizer is ours: then that has to stay for as long.
    pub fn needs_status(&self, seen: &SeenService) -> bool {
        let has_class = seen.wish.as_ref().is_some_and(|wish| wish.class.is_some());
        let shared = self.classless && !has_class;
        seen.status.ours && !shared && seen.finalizers.iter().any(|f| f == STANDARD_FINALIZER)
    }

    fn match_class(&self, wish: &Wish) -> bool {
        match &wish.class {
            Some(class) => self.classes.contains(class),
            None => self.classless,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(classless: bool) -> Claims {
        Claims {
            classless,
            classes: BTreeSet::from(["berth.dev/berth".to_owned(), "kubelb".to_owned()]),
        }
    }

    fn service(type_: &str, class: Option<&str>, finalizers: &[&str]) -> SeenService {
        let service = json!({
            "metadata": {"namespace": "ns", "name": "web", "uid": "u", "finalizers": finalizers},
            "spec": {"type": type_, "loadBalancerClass": class, "ports": [{"port": 80}]},
        });
        SeenService::project(serde_json::from_value(service).unwrap())
            .unwrap()
            .1
    }

    fn lb(class: Option<&str>, finalizers: &[&str]) -> SeenService {
        service("LoadBalancer", class, finalizers)
    }

    #[test]
    fn point_01_another_class_is_never_touched_whatever_finalizers_it_has() {
        for finalizers in [&[][..], &[STANDARD_FINALIZER], &["kubelb.k8c.io/cleanup"]] {
            let seen = lb(Some("other.example/lb"), finalizers);
            assert_eq!(claims(true).standing(&seen), Standing::Foreign);
            let mut deleting = seen;
            deleting.deleting = true;
            assert_eq!(claims(true).standing(&deleting), Standing::Foreign);
            assert_eq!(claims(true).finalizers(&deleting, false), None);
        }
    }

    #[test]
    fn point_02_classless_services_are_claimed_unless_a_class_is_demanded() {
        assert_eq!(claims(true).standing(&lb(None, &[])), Standing::Wanted);
        assert_eq!(claims(false).standing(&lb(None, &[])), Standing::Foreign);
        assert_eq!(
            claims(false).standing(&lb(Some("kubelb"), &[])),
            Standing::Wanted
        );
        assert_eq!(
            claims(true).standing(&service("NodePort", None, &[])),
            Standing::Foreign
        );
    }

    #[test]
    fn point_03_the_finalizer_depends_on_the_class_and_others_stay() {
        let with = claims(true)
            .finalizers(&lb(Some("kubelb"), &["theirs"]), true)
            .unwrap();
        assert_eq!(with, ["theirs", OWN_FINALIZER]);
        let without = claims(true)
            .finalizers(&lb(None, &["theirs"]), true)
            .unwrap();
        assert_eq!(without, ["theirs", STANDARD_FINALIZER]);
        let done = lb(None, &["theirs", STANDARD_FINALIZER]);
        assert_eq!(claims(true).finalizers(&done, true), None);
        assert_eq!(claims(true).finalizers(&done, false).unwrap(), ["theirs"]);
    }

    #[test]
    fn point_03_the_standard_finalizer_on_a_classed_service_is_somebody_elses() {
        let seen = lb(Some("kubelb"), &[STANDARD_FINALIZER, OWN_FINALIZER]);
        assert_eq!(claims(true).finalizers(&seen, true), None);
        assert_eq!(
            claims(true).finalizers(&seen, false).unwrap(),
            [STANDARD_FINALIZER]
        );
    }

    #[test]
    fn point_03_nothing_is_added_to_what_is_being_deleted() {
        let mut seen = lb(None, &["theirs"]);
        seen.deleting = true;
        assert_eq!(claims(true).finalizers(&seen, true), None);
        assert_eq!(claims(true).standing(&seen), Standing::Leaving);
    }

    #[test]
    fn point_04_a_type_that_left_is_leaving_until_our_marks_are_gone() {
        for finalizer in [OWN_FINALIZER, STANDARD_FINALIZER] {
            let seen = service("ClusterIP", None, &[finalizer]);
            assert_eq!(claims(true).standing(&seen), Standing::Leaving);
        }
        let mut cleared = service("ClusterIP", None, &[]);
        cleared.status.ours = true;
        assert_eq!(claims(true).standing(&cleared), Standing::Leaving);
        cleared.status.ours = false;
        assert_eq!(claims(true).standing(&cleared), Standing::Foreign);
    }

    #[test]
    fn point_02_where_a_class_became_demanded_only_what_we_served_is_released() {
        let mut seen = lb(None, &[STANDARD_FINALIZER]);
        assert_eq!(claims(false).standing(&seen), Standing::Foreign);
        seen.status.ours = true;
        assert_eq!(claims(false).standing(&seen), Standing::Leaving);
        assert_eq!(
            claims(false).finalizers(&seen, false).unwrap(),
            Vec::<String>::new()
        );
    }
}
