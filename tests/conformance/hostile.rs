//! What the hub is tried with, line by line, and the answer that is due.

use crate::pages::{Line, Page, line};

/// The page.
pub(crate) const PAGE: Page = Page {
    path: "docs/hostile.md",
    prefix: "hostile_",
    head: HEAD,
    lines: &LINES,
};

const HEAD: &str = "\
# Hostile input

What a stranger, a stolen key or a malicious tenant can send, what the hub answers, and the tests that show it. Generated from the
tests' names by `make generate`; a test fails when this page is out of date. Those in `tests/hostile` run against the real hub
process in front of a real API server, and see after each attack that a neighbour's session works, that the hub's memory is back
within bounds, that a metric has counted the attack, and that the audit log tells of it. [security.md](security.md) says what this
is about.

| | input | answer | shown by |
|---|---|---|---|
";

const LINES: [Line; 63] = [
    line(
        1,
        "silent TCP, slow ClientHello",
        "closed after 5 s; handshakes of one address are capped",
    ),
    line(2, "TLS 1.2", "no handshake"),
    line(3, "no client certificate", "no handshake"),
    line(4, "an expired certificate", "no handshake"),
    line(5, "notBefore in the future", "no handshake"),
    line(6, "a foreign CA", "no handshake"),
    line(7, "a CA of the same name with another key", "no handshake"),
    line(
        8,
        "revoked, then session resumption",
        "there are no tickets and no cache; the full handshake ends in UNAUTHENTICATED",
    ),
    line(9, "revoked in mid-stream", "UNAUTHENTICATED within 1 s"),
    line(
        10,
        "a leaf for serverAuth only, or with CA:TRUE",
        "no handshake",
    ),
    line(
        11,
        "a chain of 100 certificates or of 1 MiB",
        "no handshake, bounded bytes",
    ),
    line(12, "rapid reset", "GOAWAY"),
    line(13, "resets that the server is made to send", "GOAWAY"),
    line(14, "a flood of CONTINUATION", "GOAWAY"),
    line(
        15,
        "headers beyond 16 KiB, a header bomb",
        "refused; GOAWAY",
    ),
    line(16, "a flood of PING, SETTINGS or empty DATA", "GOAWAY"),
    line(17, "a window that is never reopened", "closed after 15 s"),
    line(
        18,
        "1,000 streams on one connection",
        "REFUSED_STREAM beyond 8; GOAWAY for one that goes on",
    ),
    line(19, "HTTP/1.1, wrong ALPN or path", "closed; UNIMPLEMENTED"),
    line(20, "two URI SANs", "UNAUTHENTICATED"),
    line(
        21,
        "a SAN with `..`, `%2e`, trailing slash, upper case, NUL, homoglyph, more than 2,048 bytes",
        "UNAUTHENTICATED",
    ),
    line(22, "`tenant/a` against `tenant/ab`", "no prefix matches"),
    line(
        23,
        "a body that claims another tenant",
        "no field could: ignored; a header that does: PERMISSION_DENIED",
    ),
    line(
        24,
        "two clusters under one identity",
        "the second: FAILED_PRECONDITION",
    ),
    line(25, "the same agent twice", "the older: ABORTED"),
    line(
        26,
        "a replayed token",
        "PERMISSION_DENIED, in the words of an unknown one",
    ),
    line(
        27,
        "100 concurrent uses of a token",
        "exactly one certificate",
    ),
    line(28, "an expired token", "PERMISSION_DENIED"),
    line(
        29,
        "tokens tried by brute force",
        "RESOURCE_EXHAUSTED; the address is locked, not the tenant",
    ),
    line(
        30,
        "a CSR with RSA-512 or a bad self-signature",
        "INVALID_ARGUMENT; SANs asked for are ignored",
    ),
    line(
        31,
        "a message of more than 4 MiB, a gzip bomb",
        "RESOURCE_EXHAUSTED; gzip is not spoken: UNIMPLEMENTED",
    ),
    line(
        32,
        "deep nesting, lying lengths, truncation",
        "INVALID_ARGUMENT, no panic, nothing allocated for what was only said",
    ),
    line(33, "an unknown enum value", "refused, never value 0"),
    line(
        34,
        "an unknown field; an unknown body",
        "ignored; UNIMPLEMENTED for that resource",
    ),
    line(
        35,
        "a protocol version outside of the range",
        "FAILED_PRECONDITION with the range",
    ),
    line(
        36,
        "a delta before Hello, two Hellos",
        "FAILED_PRECONDITION",
    ),
    line(
        37,
        "a gap in the sequence; a step backward",
        "ResyncRequired; ignored",
    ),
    line(
        38,
        "a snapshot without End, with a wrong count or hash",
        "discarded, nothing is deleted",
    ),
    line(
        39,
        "a verified empty snapshot after 500 Services",
        "held by the brake",
    ),
    line(
        40,
        "a snapshot of 1,000,000 Services",
        "RESOURCE_EXHAUSTED, the state before stays",
    ),
    line(
        41,
        "10,000 creations and deletions in a second",
        "coalesced; RESOURCE_EXHAUSTED for that tenant",
    ),
    line(
        42,
        "an acknowledgement of what was never sent",
        "ignored, counted",
    ),
    line(43, "a duplicate key with different content", "both refused"),
    line(
        44,
        "names that are empty, too long, upper case, with `..`, `/`, newlines",
        "refused",
    ),
    line(
        45,
        "a name with a leading digit on an older management cluster",
        "works (hashed names)",
    ),
    line(
        46,
        "(`a-b`, `c`) against (`a`, `b-c`); a foreign object in the place",
        "distinct objects; refused",
    ),
    line(47, "no, duplicate or 10,000 ports", "refused"),
    line(48, "port 0 or 65536, protocol FOO", "refused"),
    line(49, "node ports 0, 22, 6443, 10250", "refused"),
    line(
        50,
        "a node at 127/8, ::1, 0.0.0.0",
        "refused (CVE-2021-25737)",
    ),
    line(51, "link-local and metadata addresses", "refused"),
    line(52, "multicast, broadcast, class E", "refused"),
    line(
        53,
        "addresses within addresses, in octal, with zones; hostnames",
        "canonicalised once, then refused",
    ),
    line(
        54,
        "a management node, pod, Service or API server address",
        "refused",
    ),
    line(
        55,
        "an LB address, another tenant's node",
        "refused (CVE-2021-25740)",
    ),
    line(56, "10,000 nodes", "slices split at 1,000"),
    line(57, "MetalLB's annotations", "stripped"),
    line(58, "another tenant's `loadBalancerIP`", "refused"),
    line(
        59,
        "cloud annotations, finalizers, ownerReferences, `kubernetes.io/*` labels",
        "stripped",
    ),
    line(
        60,
        "label bombs, invalid UTF-8, log escapes",
        "refused; what is no UTF-8 ends the stream: INVALID_ARGUMENT; logs are escaped",
    ),
    line(61, "externalIPs, externalName, selector", "never copied"),
    line(62, "a class change, a range `0.0.0.0/0x`", "refused"),
    line(
        63,
        "an impossible address from the allocator",
        "relayed only if valid for the family",
    ),
];
