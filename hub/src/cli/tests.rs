use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use berth_common::{
    identity::TrustDomain,
    tls::{TlsFiles, TlsSource, server_name},
};
use clap::{CommandFactory as _, Parser as _};
use futures::StreamExt as _;
use tempfile::TempDir;

use super::*;
use crate::listen::{Clients, ListenLimits, ListenMetrics, listen};

struct Ran {
    /// The exit code, and the line on stderr where there is one.
    end: Result<ExitCode, (u8, String)>,
    out: String,
    notes: String,
}

impl Ran {
    fn ok(self) -> Self {
        assert_eq!(self.end, Ok(ExitCode::SUCCESS));
        self
    }

    fn failed(self) -> (u8, String) {
        let (code, line) = self.end.unwrap_err();
        assert_eq!(line.lines().count(), 1, "{line}");
        (code, line)
    }
}

/// Runs a command as typed; `{}` stands for the directory.
fn berth_hub_at(now: SystemTime, directory: &Path, line: &str) -> Ran {
    let line = line.replace("{}", directory.to_str().unwrap());
    let arguments = ["berth-hub"].into_iter().chain(line.split_whitespace());
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    let end = match Cli::try_parse_from(arguments) {
        Ok(cli) => run(
            cli,
            &mut Console {
                out: &mut out,
                notes: &mut notes,
                now,
            },
        ),
        Err(error) => Err(CliError::Usage(error)),
    };
    Ran {
        end: end.map_err(|error| (error.exit_code(), error.one_line())),
        out: String::from_utf8(out).unwrap(),
        notes: String::from_utf8(notes).unwrap(),
    }
}

fn berth_hub(directory: &Path, line: &str) -> Ran {
    berth_hub_at(now(), directory, line)
}

/// The one audit line of a command.
fn trail(ran: &Ran) -> serde_json::Value {
    let lines = ran.notes.lines().filter(|line| line.starts_with('{'));
    let lines: Vec<&str> = lines.collect();
    assert_eq!(lines.len(), 1, "{}", ran.notes);
    serde_json::from_str(lines[0]).unwrap()
}

#[test]
fn what_is_done_with_the_authoritys_key_leaves_one_audit_line_each() {
    let directory = TempDir::new().unwrap();
    let made = berth_hub(directory.path(), "ca init --dir {}/ca").ok();
    assert_eq!(trail(&made)["reason"], "ca_init");
    let issue = "cert issue --tenant acme --ca-dir {}/ca --out {}/acme";
    assert_eq!(
        trail(&berth_hub(directory.path(), issue).ok())["reason"],
        "cert_issue"
    );
    // What was not done leaves none: there is one already.
    let again = berth_hub(directory.path(), issue);
    assert!(!again.notes.contains('{'), "{}", again.notes);
    again.failed();
}

fn with_ca() -> TempDir {
    let directory = TempDir::new().unwrap();
    berth_hub(directory.path(), "ca init --dir {}/ca").ok();
    directory
}

fn files(directory: &Path) -> TlsFiles {
    TlsFiles {
        cert: directory.join("tls.crt"),
        key: directory.join("tls.key"),
        ca: directory.join("ca.crt"),
    }
}

#[test]
fn the_definition_of_the_commands_is_sound() {
    Cli::command().debug_assert();
}

/// What the commands make is what hub and agent speak TLS with.
#[test]
fn issued_certificates_meet_in_a_handshake() {
    let directory = with_ca();
    let root = directory.path();
    let server = "cert issue --server --dns hub.example --ip 127.0.0.1 --ca-dir {}/ca --out {}/hub";
    let issued = berth_hub(root, server).ok();
    assert!(issued.out.contains("spiffe://berth.local/hub"));
    let tenant = "cert issue --tenant acme --ca-dir {}/ca --out {}/acme";
    let issued = berth_hub(root, tenant).ok();
    assert!(issued.out.contains("(1 year left)"), "{}", issued.out);

    let now = SystemTime::now();
    let hub = TlsSource::server(files(&root.join("hub")), now).unwrap();
    let agent = TlsSource::client(files(&root.join("acme")), now).unwrap();
    let handshake = async {
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (limits, metrics) = (ListenLimits::default(), ListenMetrics::default());
        let clients = Clients::Named(TrustDomain::default());
        let mut incoming = listen(socket, hub, clients, limits, metrics).unwrap();
        let stream = tokio::net::TcpStream::connect(incoming.local_addr())
            .await
            .unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&agent.current().config));
        let name = server_name("127.0.0.1").unwrap();
        let (client, accepted) = tokio::join!(connector.connect(name, stream), incoming.next());
        client.unwrap();
        let peer = accepted.unwrap().unwrap().peer().clone();
        assert_eq!(peer.identity.unwrap().identity.to_string(), "tenant/acme");
        Ok(ExitCode::SUCCESS)
    };
    block_on(handshake).unwrap();
}

#[test]
fn a_manifest_has_the_output_to_itself() {
    let directory = with_ca();
    let line = "cert issue --tenant acme --ca-dir {}/ca --output yaml --valid-for 24h";
    let ran = berth_hub(directory.path(), line).ok();
    let secret: serde_json::Value = serde_yaml::from_str(&ran.out).unwrap();
    assert_eq!(secret["apiVersion"], "v1");
    assert_eq!(secret["kind"], "Secret");
    assert_eq!(secret["type"], "kubernetes.io/tls");
    assert_eq!(secret["metadata"]["name"], "berth-agent-tls");
    assert_eq!(secret["metadata"]["namespace"], "berth-system");
    let data = secret["stringData"].as_object().unwrap();
    for (name, begins) in [
        ("tls.crt", "-----BEGIN CERTIFICATE-----"),
        ("tls.key", "-----BEGIN PRIVATE KEY-----"),
        ("ca.crt", "-----BEGIN CERTIFICATE-----"),
    ] {
        assert!(data[name].as_str().unwrap().starts_with(begins), "{name}");
    }
    assert!(ran.notes.contains("(1 day left)"), "{}", ran.notes);
    let trail = trail(&ran);
    assert_eq!(
        (&trail["event"], &trail["reason"]),
        (&"operator".into(), &"cert_issue".into())
    );
    assert_eq!(trail["tenant"], "acme");
    assert!(ran.notes.contains(trail["serial"].as_str().unwrap()));
    assert!(!ran.notes.contains("PRIVATE KEY"), "{}", ran.notes);

    let ran = berth_hub(directory.path(), &format!("{line} --secret-name edge/tls"));
    let secret: serde_json::Value = serde_yaml::from_str(&ran.ok().out).unwrap();
    assert_eq!(secret["metadata"]["namespace"], "edge");
    assert_eq!(secret["metadata"]["name"], "tls");
}

#[test]
fn show_tells_whose_it_is_and_how_long_it_lives() {
    let directory = with_ca();
    let root = directory.path();
    berth_hub(
        root,
        "cert issue --server --dns hub.example --ip 10.0.0.1 --valid-for 3d --ca-dir {}/ca --out {}/hub",
    )
    .ok();
    let show = "cert show {}/hub/tls.crt";
    let ran = berth_hub(root, show).ok();
    for expected in [
        "identity     hub in the trust domain berth.local",
        "purpose      server",
        "names        hub.example, 10.0.0.1",
        "issuer       O=Berth, CN=Berth CA ",
        "(3 days left)",
    ] {
        assert!(ran.out.contains(expected), "{expected}: {}", ran.out);
    }
    assert_eq!(ran.notes, "");

    let day = Duration::from_secs(86_400);
    let ageing = berth_hub_at(now() + 2 * day + day / 2, root, show).ok();
    assert!(
        ageing.notes.contains("less than a third"),
        "{}",
        ageing.notes
    );

    let expired = berth_hub_at(now() + 5 * day, root, show);
    assert_eq!(expired.end, Ok(ExitCode::FAILURE));
    assert!(
        expired.notes.contains("expired 2 days ago"),
        "{}",
        expired.notes
    );

    let ran = berth_hub(root, "cert show {}/ca/ca.crt").ok();
    let expected = "certificate authority of the trust domain berth.local";
    assert!(ran.out.contains(expected), "{}", ran.out);
}

#[test]
fn a_terminal_obeys_no_certificate() {
    let directory = TempDir::new().unwrap();
    let mut params = rcgen::CertificateParams::default();
    let name = rcgen::DnType::OrganizationName;
    params.distinguished_name.push(name, "evil\u{1b}[2J");
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    fs::write(directory.path().join("evil.crt"), pem).unwrap();
    let ran = berth_hub(directory.path(), "cert show {}/evil.crt").ok();
    assert!(!ran.out.contains('\u{1b}'), "{:?}", ran.out);
    assert!(ran.out.contains("evil\\u{1b}[2J"), "{}", ran.out);
}

#[test]
fn failures_are_one_line_with_what_to_do() {
    let directory = with_ca();
    let root = directory.path();
    for (line, code, expected) in [
        (
            "ca init --dir {}/ca",
            1,
            "already holds a certificate authority",
        ),
        (
            "cert issue --tenant acme --ca-dir {}/none --out {}/x",
            1,
            "make one with `berth-hub ca init --dir",
        ),
        (
            "cert issue --server --ca-dir {}/ca --out {}/x",
            2,
            "give --dns or --ip",
        ),
        (
            "cert issue --tenant Acme --ca-dir {}/ca --out {}/x",
            2,
            "has 'A' at byte 0",
        ),
        (
            "cert issue --tenant acme --admin ops --ca-dir {}/ca --out {}/x",
            2,
            "cannot be used with",
        ),
        (
            "cert issue --tenant acme --dns a.example --ca-dir {}/ca --out {}/x",
            2,
            "--server",
        ),
        (
            "cert issue --tenant acme --ca-dir {}/ca --out {}/x --valid-for soon",
            2,
            "such as 24h, 90d or 1y",
        ),
        ("cert issue --ca-dir {}/ca --out {}/x", 2, "--tenant"),
        ("cert issue --tenant acme --ca-dir {}/ca", 2, "--out"),
        ("cert show {}/none.crt", 1, "there is no file"),
        ("cert show {}/ca/ca.key", 1, "no certificate in PEM form"),
        ("cert show", 2, "FILE"),
        (
            "cret",
            2,
            "unrecognized subcommand 'cret'; tip: a similar subcommand exists: 'cert' (see --help)",
        ),
    ] {
        let (found, said) = berth_hub(root, line).failed();
        assert_eq!(found, code, "{line}: {said}");
        assert!(said.contains(expected), "{line}: {said}");
    }
    assert!(!root.join("x").exists(), "a refused command writes nothing");
}

#[test]
fn a_second_issue_needs_to_be_told_to_replace() {
    let directory = with_ca();
    let line = "cert issue --admin ops --ca-dir {}/ca --out {}/ops";
    berth_hub(directory.path(), line).ok();
    let (code, said) = berth_hub(directory.path(), line).failed();
    assert_eq!(code, 1);
    assert!(said.contains("add --replace"), "{said}");
    berth_hub(directory.path(), &format!("{line} --replace")).ok();
}

#[test]
fn a_kubeconfig_that_is_not_there_is_said() {
    let directory = TempDir::new().unwrap();
    let line = "ca init --secret berth-system/ca --kubeconfig {}/none";
    let (code, said) = berth_hub(directory.path(), line).failed();
    assert_eq!(code, 2);
    assert!(said.contains("--kubeconfig"), "{said}");
}
