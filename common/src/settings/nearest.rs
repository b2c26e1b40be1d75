//! Which known name a person most likely meant. A guess to help with, never one to act upon.

/// The most similar of `known`, which is never empty here; ties go to the earlier. Case and separators count for
/// nothing, and the last part of a key by itself is compared too, for who forgets the levels above (`clientCa`).
pub(super) fn nearest<'a>(
    wrong: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let wrong = plain(wrong);
    let mut best: Option<(&str, f64)> = None;
    for name in known {
        let leaf = name.rsplit('.').next().unwrap_or(name);
        let whole = strsim::normalized_damerau_levenshtein(&wrong, &plain(name));
        // A little less than the same likeness of the whole.
        let leaf = strsim::normalized_damerau_levenshtein(&wrong, &plain(leaf)) * 0.99;
        let likeness = whole.max(leaf);
        if best.is_none_or(|(_, most)| likeness > most) {
            best = Some((name, likeness));
        }
    }
    best.map(|(name, _)| name)
}

fn plain(name: &str) -> String {
    name.chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 6] = [
        "listen",
        "adminListen",
        "tls.cert",
        "tls.clientCa",
        "log.format",
        "log.filter",
    ];

    #[test]
    fn finds_what_was_meant() {
        for (wrong, meant) in [
            ("listne", "listen"),
            ("tls.clientCA", "tls.clientCa"),
            ("tls.client_ca", "tls.clientCa"),
            ("clientCa", "tls.clientCa"),
            ("logFormat", "log.format"),
            ("logging.filter", "log.filter"),
            ("admin-listen", "adminListen"),
            ("cert", "tls.cert"),
        ] {
            assert_eq!(nearest(wrong, KNOWN), Some(meant), "{wrong}");
        }
    }
}
