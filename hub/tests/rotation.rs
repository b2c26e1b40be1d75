//! `berth-hub ca rotate` and `ca status` for an authority in a directory, as the processes that an operator starts, ends, and starts
//! again. What the directory has is real, and so are the certificates, which are tried in handshakes; of the management cluster
//! there is only what the commands ask it: which Tenants there are.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests, and a panic is how one fails"
)]

mod operator;

use std::{fs, path::Path};

use operator::{Operator, Ran, cut, meet, tenant};

/// In the order in which a step writes them.
const FILES: [&str; 7] = [
    "cross.crt",
    "previous.crt",
    "next.key",
    "next.crt",
    "since",
    "ca.key",
    "ca.crt",
];
/// And in which it takes away what is not needed any more.
const LEFT: [&str; 4] = ["previous.crt", "cross.crt", "next.crt", "next.key"];

const AT_ITS_END: &str = "the rotation is at its end";

#[test]
fn a_rotation_goes_on_from_wherever_its_command_was_ended() {
    let operator = Operator::with_authority();
    let old = operator.signer();
    operator.issue("before");
    operator.tenants([tenant("acme", true, Some((old, &[old], true)))]);
    let status = || operator.run("ca status --dir {ca}").done();
    let said = status().out;
    assert!(
        said.contains(&format!("{old} signs, and no other is trusted\n")),
        "{said}"
    );

    // Step 1. The command is ended while it waits, and what it made stays.
    let said = operator.until("ca rotate --dir {ca} --timeout 10m", "waits for:");
    assert!(
        said.contains("it is made known, and signs nothing yet"),
        "{said}"
    );
    let Ran { out, notes, .. } = status();
    assert!(out.contains("step 1 of 3, since"), "{out}");
    assert!(
        out.contains("acme: is connected, and is asked to renew"),
        "{out}"
    );
    assert!(
        notes.contains("`berth-hub ca rotate` goes on from here"),
        "{notes}"
    );
    let made = operator.files();
    let again = operator.run("ca rotate --dir {ca} --no-wait").done();
    assert!(again.out.contains("step 1 of 3"), "{}", again.out);
    assert!(
        again.notes.contains("run the same command again"),
        "{}",
        again.notes
    );
    assert_eq!(again.trail(), 0, "nothing was done: {}", again.notes);
    // Time alone does not move it on: acme does not trust the new authority yet.
    operator.settle();
    let late = operator.run("ca rotate --dir {ca} --timeout 1s");
    assert_eq!(late.code, 1, "{}", late.notes);
    assert!(
        late.notes.contains("not finished in this time"),
        "{}",
        late.notes
    );
    assert_eq!(
        cut(&operator.files(), "since"),
        cut(&made, "since"),
        "the same authority"
    );
    // Who signs is the former one still.
    operator.issue("during");
    assert_eq!(operator.signer(), old);
    assert!(operator.all_meet(&["before", "during"]));

    // Step 2, and the command is ended right after it.
    let new = operator.next();
    operator.tenants([tenant("acme", true, Some((old, &[old, new], true)))]);
    operator.until(
        "ca rotate --dir {ca} --timeout 10m",
        "the new authority signs from now on",
    );
    let said = status().out;
    assert!(said.contains("step 2 of 3, since"), "{said}");
    assert!(said.contains(&format!("{old} is still trusted")), "{said}");
    assert_eq!(operator.signer(), new);
    let key = made.iter().find(|(name, _)| name == "ca.key").unwrap();
    let holds_it = |(_, text): &(String, String)| text.contains(key.1.trim());
    assert!(
        !operator.files().iter().any(holds_it),
        "the former key is there still"
    );
    operator.issue("after");
    assert!(operator.all_meet(&["before", "during", "after"]));
    // Who trusts the former authority alone verifies a hub of the new one by the certificate across.
    assert!(meet(
        &operator.path("after"),
        &operator.path("before"),
        [&operator.path("ca/ca.crt"), &operator.path("before/ca.crt"),]
    ));

    // It waits for who has a certificate of the former one.
    operator.settle();
    let waits = operator.run("ca rotate --dir {ca} --no-wait").done();
    assert!(
        waits
            .out
            .contains("acme: is connected, and is asked to renew"),
        "{}",
        waits.out
    );
    assert!(waits.out.contains("step 2 of 3"), "{}", waits.out);
    operator.until("ca rotate --dir {ca} --timeout 10m", "waits for:");

    // Step 3.
    operator.tenants([tenant("acme", true, Some((new, &[old, new], true)))]);
    let ended = operator.run("ca rotate --dir {ca} --timeout 10m").done();
    assert!(
        ended
            .out
            .contains("the former authority is trusted no more"),
        "{}",
        ended.out
    );
    assert!(ended.notes.contains(AT_ITS_END), "{}", ended.notes);
    assert_eq!(ended.trail(), 1, "{}", ended.notes);
    let said = status().out;
    assert!(
        said.contains(&format!("{new} signs, and no other is trusted since")),
        "{said}"
    );
    assert!(operator.all_meet(&["after"]));
    for (hub, agent) in [
        ("before", "after"),
        ("after", "before"),
        ("after", "during"),
    ] {
        let bundle = operator.path("ca/ca.crt");
        let (hub, agent) = (operator.path(hub), operator.path(agent));
        assert!(
            !meet(&hub, &agent, [&bundle, &bundle]),
            "{hub:?} and {agent:?}"
        );
    }

    // The same command begins no other rotation, unless it is told to.
    let rest = operator.files();
    let names: Vec<&str> = rest.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["ca.crt", "ca.key", "since"]);
    let again = operator.run("ca rotate --dir {ca}").done();
    assert!(again.notes.contains(AT_ITS_END), "{}", again.notes);
    assert_eq!(operator.files(), rest);
    let another = operator
        .run("ca rotate --dir {ca} --again --no-wait")
        .done();
    assert!(another.out.contains("step 1 of 3"), "{}", another.out);
    assert_eq!(operator.signer(), new);
}

#[test]
fn finish_waits_for_nobody_and_names_who_is_cut_off() {
    let operator = Operator::with_authority();
    let old = operator.signer();
    operator.tenants([
        tenant("gone", false, Some((old, &[old], true))),
        tenant("by-hand", true, Some((old, &[old], false))),
        tenant("never", false, None),
    ]);
    let finish = || {
        operator
            .run("ca rotate --dir {ca} --finish --no-wait")
            .done()
    };
    let begun = finish();
    assert!(begun.out.contains("step 1 of 3"), "{}", begun.out);
    // Every replica of a hub has to have read it all the same.
    assert!(begun.out.contains("waits until"), "{}", begun.out);
    operator.settle();
    assert!(finish().out.contains("step 2 of 3"));
    operator.settle();
    // Without it they are waited for.
    let waits = operator.run("ca rotate --dir {ca} --no-wait").done();
    assert!(
        waits.out.contains("gone: is not connected"),
        "{}",
        waits.out
    );
    let Ran { out, notes, .. } = finish();
    assert!(
        out.contains("the former authority is trusted no more"),
        "{out}"
    );
    let named = notes
        .split("cut off, until each has a new certificate")
        .nth(1)
        .unwrap();
    for expected in [
        "gone: is not connected",
        "by-hand: does not renew by itself",
    ] {
        assert!(named.contains(expected), "{notes}");
    }
    assert!(!named.contains("never"), "{notes}");
    let left = operator.run("ca status --dir {ca}").done().out;
    assert!(left.contains("without a certificate of it:"), "{left}");
}

/// Whatever of a step is written when the machine goes down: all certificates are good still, new ones can be issued, and the same command
/// brings the step to its end.
#[test]
fn half_a_step_is_gone_on_with() {
    let operator = Operator::with_authority();
    operator.issue("before");
    let step = "ca rotate --dir {ca} --finish --no-wait";
    for (n, expected) in ["step 1 of 3", "step 2 of 3", "no other is trusted since"]
        .into_iter()
        .enumerate()
    {
        let former = operator.path(&format!("former-{n}"));
        operator.copy_authority(&former);
        operator.run(step).done();
        let halves = (0..=FILES.len()).map(|written| (written, 0));
        let taken = (1..=LEFT.len()).map(|taken| (FILES.len(), taken));
        for (written, taken) in halves.chain(taken) {
            let half = Operator::beside(&operator, &former);
            for name in &FILES[..written] {
                let now = operator.path("ca").join(name);
                if now.exists() {
                    fs::copy(now, half.path("ca").join(name)).unwrap();
                }
            }
            for name in &LEFT[..taken] {
                if !operator.path("ca").join(name).exists() {
                    let _ = fs::remove_file(half.path("ca").join(name));
                }
            }
            let what = format!("{expected}, {written} files written, {taken} taken away");
            half.issue("now");
            assert!(half.all_meet(&["now"]), "{what}");
            if n < 2 {
                assert!(half.all_meet(&["before", "now"]), "{what}");
            }
            let status = || half.run("ca status --dir {ca}").done().out;
            if !status().contains(expected) {
                half.settle();
                half.run(step).done();
            }
            let said = status();
            assert!(said.contains(expected), "{what}: {said}");
        }
        operator.settle();
    }
}

#[test]
fn what_a_directory_lacks_is_said_before_a_cluster_is_looked_for() {
    let operator = Operator::with_authority();
    fs::create_dir(operator.path("empty")).unwrap();
    fs::create_dir(operator.path("half")).unwrap();
    fs::copy(operator.path("ca/ca.crt"), operator.path("half/ca.crt")).unwrap();
    let make = |name: &str| {
        let place = operator.path(name);
        format!(
            "make one with `berth-hub ca init --dir {}`",
            place.display()
        )
    };
    for command in ["status", "rotate"] {
        for (name, missing, advice) in [
            ("none", "there is no such directory", make("none")),
            ("empty", "ca.crt and ca.key are missing", make("empty")),
            (
                "half",
                "ca.key is missing",
                "bring that back from a copy".to_owned(),
            ),
        ] {
            let place = operator.path(name).display().to_string();
            let ran = operator.run_alone(&format!("ca {command} --dir {place}"));
            assert_eq!(ran.code, 1, "{}", ran.notes);
            let line = ran.failure();
            for expected in [&place, missing, &advice] {
                assert!(line.contains(expected), "{expected}: {line}");
            }
        }
        // What is said is so: the command that is named makes one.
        let whole = operator.run_alone(&format!("ca {command} --dir {{ca}}"));
        assert_eq!(whole.code, 2, "{}", whole.notes);
        assert!(
            whole.failure().contains("give --kubeconfig"),
            "{}",
            whole.notes
        );
        let nobody = operator.run_alone(&format!(
            "ca {command} --dir {{ca}} --kubeconfig {{nobody}}"
        ));
        assert_eq!(nobody.code, 1, "{}", nobody.notes);
        assert!(
            nobody.failure().contains("in the management cluster"),
            "{}",
            nobody.notes
        );
        let neither = operator.run_alone(&format!("ca {command}"));
        assert_eq!(neither.code, 2, "{}", neither.notes);
        assert!(neither.failure().contains("--dir"), "{}", neither.notes);
    }
    assert!(!has_key(&operator.path("empty")) && !operator.path("none").exists());
    let empty = operator.path("empty").display().to_string();
    operator.run_alone(&format!("ca init --dir {empty}")).done();
    let said = operator.run(&format!("ca status --dir {empty}")).done().out;
    assert!(said.contains("signs, and no other is trusted"), "{said}");
}

fn has_key(directory: &Path) -> bool {
    directory.join("ca.key").exists()
}
