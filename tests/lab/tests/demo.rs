//! The demo as a person gets it, run to its end by itself: what they should see is there. That it leaves nothing behind,
//! however it ends, is shown in `ends.rs` for every way to hold a lab.

use std::process::Command;

/// What the demo prints, having made sure that it succeeded.
fn demo(environment: &[(&str, &str)]) -> std::io::Result<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["demo", "--once"])
        .envs(environment.iter().copied())
        .output()?;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}\n{complaints}");
    Ok(shown)
}

/// The texts are there, in this order.
fn assert_tells(shown: &str, texts: &[&str]) {
    let mut rest = shown;
    for text in texts {
        let Some(at) = rest.find(text) else {
            panic!("{text:?} is not there, or too early, in:\n{shown}");
        };
        rest = &rest[at + text.len()..];
    }
}

#[test]
fn the_demo_goes_from_nothing_to_an_answer_and_back() {
    let shown = demo(&[]).unwrap();
    assert_tells(
        &shown,
        &[
            "\n1. ",
            "\n2. ",
            "berth-hub is ready",
            "berth-agent of acme is connected",
            "\n3. ",
            "10.10.255.200 was given ",
            "after the Service was created",
            "kubectl get svc backend",
            "EXTERNAL-IP",
            "10.10.255.200",
            "kubectl get loadbalancers -A",
            "berth-acme",
            "client: GET http://10.10.255.200:3000/",
            "host=backend-",
            "\n4. ",
            "acme's Service is gone after ",
            "10.10.255.200 is free again",
            "gets no answer",
            "The lab has ended",
        ],
    );
}

#[test]
fn without_namespaces_everything_but_the_packets_happens() {
    let shown = demo(&[("BERTH_LAB_FABRIC", "loopback")]).unwrap();
    assert_tells(
        &shown,
        &[
            "without packets: the kernel forbids",
            "was given ",
            "kubectl get loadbalancers -A",
            "No packet is sent",
            "is free again",
        ],
    );
    assert!(!shown.contains("gets no answer"), "{shown}");
}
