//! The brake on deletions that nobody asked for: when much of what a tenant had is suddenly absent, somebody restored an
//! old backup or pointed the agent at another cluster, and an operator should look first.

use berth_common::identity::TenantName;

use crate::objects::RELEASE_HELD;

/// So many absent load balancers are never held: small tenants change as a whole.
const FREE: usize = 5;

/// Whether the deletion of `absent` of a tenant's `total` load balancers (the absent ones included) is to be held: more
/// than a fifth of them, and at least five.
pub fn brake(absent: usize, total: usize) -> bool {
    absent >= FREE && absent * 5 > total
}

/// What an operator should know and do, for the condition on the Tenant.
pub fn held_message(tenant: &TenantName, absent: usize, total: usize) -> String {
    format!(
        "{absent} of {total} load balancers are absent from the tenant's cluster; their deletion is held. If they are to go: \
         berth-hub tenant release-held {tenant} (or kubectl annotate tenant {tenant} {RELEASE_HELD}=true)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn point_brake_holds_more_than_a_fifth_and_at_least_five() {
        assert!(!brake(4, 4), "small tenants change as a whole");
        assert!(brake(5, 5));
        assert!(!brake(5, 25), "a fifth");
        assert!(brake(6, 25));
        assert!(brake(500, 500));
        assert!(!brake(0, 0));
    }

    #[test]
    fn the_message_says_how_to_release() {
        let tenant = TenantName::parse("acme").unwrap();
        let message = held_message(&tenant, 6, 25);
        assert!(message.starts_with("6 of 25 "), "{message}");
        for command in [
            "berth-hub tenant release-held acme",
            "kubectl annotate tenant acme berth.dev/release-held=true",
        ] {
            assert!(message.contains(command), "{message}");
        }
    }
}
