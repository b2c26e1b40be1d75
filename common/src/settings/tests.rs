//! Settings as their users meet them: a table and a struct of every kind of value, through all four layers.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf};

use clap::{Args, Command, FromArgMatches};
use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::telemetry::{LOG_FILTER, LOG_FORMAT, LogSettings};

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Sample {
    #[serde(deserialize_with = "socket_addr")]
    listen: SocketAddr,
    tls: Tls,
    use_class: bool,
    classes: Vec<String>,
    note: String,
    log: LogSettings,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Tls {
    #[serde(deserialize_with = "path")]
    cert: PathBuf,
    #[serde(deserialize_with = "optional_path")]
    client_ca: Option<PathBuf>,
}

impl Settings for Sample {
    const TABLE: &'static [Setting] = &[
        Setting::text("listen", "IP:PORT", "Where peers connect").default("0.0.0.0:8443"),
        Setting::text("tls.cert", "FILE", "The certificate shown to peers"),
        Setting::text("tls.clientCa", "FILE", "Who signs peers' certificates").default(""),
        Setting::bool("useClass", "Serve only the classes named"),
        Setting::list("classes", "CLASS,…", "The classes").default("a.example/x,b"),
        Setting::text("note", "TEXT", "Anything").default("#1: yes"),
        LOG_FORMAT,
        LOG_FILTER,
    ];

    fn check(&self) -> Result<(), Conflict> {
        if self.use_class && self.classes.is_empty() {
            return Err(Conflict {
                keys: &["useClass", "classes"],
                rule: "classes must name at least one class when useClass is true".to_owned(),
            });
        }
        Ok(())
    }
}

/// The file, the environment and the command line of one start.
fn start(
    file: &str,
    env: &[(&str, &str)],
    flags: &[&str],
) -> Result<Resolved<Sample>, SettingsError> {
    let command = SettingsArgs::<Sample>::augment_args(Command::new("sample"));
    let words = [&["sample"], flags].concat();
    let matches = command.try_get_matches_from(words).expect("known flags");
    let args = SettingsArgs::<Sample>::from_arg_matches(&matches).expect("matches of its own");
    resolve(&Inputs {
        file: Some((PathBuf::from("/etc/berth/sample.yaml"), file.to_owned())),
        environment: variables(env),
        flags: args.given().clone(),
    })
}

fn variables(env: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    env.iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn parse(file: &str, env: &[(&str, &str)], flags: &[&str]) -> Result<Sample, SettingsError> {
    start(file, env, flags)?.parse()
}

/// The one line that the binary would print.
fn error(file: &str, env: &[(&str, &str)], flags: &[&str]) -> String {
    let line = parse(file, env, flags).expect_err("an error").to_string();
    assert!(!line.contains(char::is_control), "one line: {line:?}");
    line
}

const FILE: &str = "
listen: 10.0.0.1:1
tls:
  cert: /file/cert
  clientCa: /file/ca
useClass: true
classes: [from, file]
log:
  format: json
";

#[test]
fn each_layer_wins_over_those_before_it() {
    let only_file = parse(FILE, &[], &[]).unwrap();
    assert_eq!(only_file.listen, "10.0.0.1:1".parse().unwrap());
    assert_eq!(only_file.classes, ["from", "file"]);
    assert_eq!(only_file.note, "#1: yes", "a default");

    let env = [
        ("BERTH_LISTEN", "10.0.0.2:2"),
        ("BERTH_CLASSES", "from, env"),
    ];
    let with_env = parse(FILE, &env, &[]).unwrap();
    assert_eq!(with_env.listen, "10.0.0.2:2".parse().unwrap());
    assert_eq!(with_env.classes, ["from", "env"]);
    assert_eq!(with_env.tls.cert, PathBuf::from("/file/cert"));

    let flags = [
        "--listen=[::]:3",
        "--tls-client-ca",
        "",
        "--use-class=false",
    ];
    let with_flags = parse(FILE, &env, &flags).unwrap();
    assert_eq!(with_flags.listen, "[::]:3".parse().unwrap());
    assert_eq!(with_flags.tls.client_ca, None);
    assert!(!with_flags.use_class);
}

#[test]
fn print_config_shows_values_and_sources() {
    let resolved = start(
        FILE,
        &[("BERTH_CLASSES", "from,env"), ("BERTH_NOTE", "two\nlines")],
        &["--use-class", "--listen", "[::]:3"],
    )
    .unwrap();
    insta::assert_snapshot!(resolved);
    assert_eq!(resolved.source("listen"), Some("flag --listen"));
    assert_eq!(resolved.source("nothing"), None);
}

#[test]
fn print_config_shows_what_is_missing_and_what_is_wrong() {
    let resolved = start("", &[("BERTH_LISTEN", "nonsense")], &[]).unwrap();
    insta::assert_snapshot!(resolved);
}

#[test]
fn help_lists_every_setting() {
    let mut command = SettingsArgs::<Sample>::augment_args(Command::new("sample").term_width(100));
    command.build();
    insta::assert_snapshot!(command.render_help());
}

#[test]
fn flattens_into_a_derived_command() {
    #[derive(clap::Parser)]
    enum Cli {
        Run(SettingsArgs<Sample>),
        Doctor {
            #[command(flatten)]
            settings: SettingsArgs<Sample>,
            #[arg(long)]
            quick: bool,
        },
    }
    use clap::Parser;
    let Cli::Run(run) = Cli::parse_from(["x", "run", "--tls-cert=a", "--print-config"]) else {
        panic!("run is run");
    };
    assert!(run.print_config());
    assert_eq!(run.given()["tls.cert"], "a");
    let Cli::Doctor { settings, quick } = Cli::parse_from([
        "x",
        "doctor",
        "--quick",
        "--use-class",
        "--listen",
        "[::]:1",
    ]) else {
        panic!("doctor is doctor");
    };
    assert!(quick && !settings.print_config());
    assert_eq!(settings.given()["useClass"], "true");
    assert_eq!(settings.given()["listen"], "[::]:1");
}

#[test]
fn the_table_is_sound() {
    SettingsArgs::<Sample>::augment_args(Command::new("sample")).debug_assert();
    check_table::<Sample>().unwrap();
}

#[test]
fn bad_values_name_key_value_source_and_expectation() {
    let cert = [("BERTH_TLS_CERT", "/c")];
    for (file, env, flags, line) in [
        (
            "listen: nonsense",
            &cert[..],
            &[][..],
            r#"listen: "nonsense" (/etc/berth/sample.yaml): expected IP:port, such as 0.0.0.0:8443 or [::]:8443"#,
        ),
        (
            "listen: 8443",
            &cert,
            &[],
            r#"listen: 8443 (/etc/berth/sample.yaml): expected a text; put it in quotes"#,
        ),
        (
            "listen: {port: 8443}",
            &cert,
            &[],
            r#"listen: a mapping (/etc/berth/sample.yaml): expected a text; put it in quotes"#,
        ),
        (
            "useClass: perhaps",
            &cert,
            &[],
            r#"useClass: "perhaps" (/etc/berth/sample.yaml): expected true or false"#,
        ),
        (
            "useClass: 1",
            &cert,
            &[],
            r#"useClass: 1 (/etc/berth/sample.yaml): expected true or false"#,
        ),
        (
            "classes: {a: b}",
            &cert,
            &[],
            r#"classes: a mapping (/etc/berth/sample.yaml): expected a list of texts"#,
        ),
        (
            "classes: [a, 1]",
            &cert,
            &[],
            r#"classes: 1 (/etc/berth/sample.yaml): expected a list of texts; put each in quotes"#,
        ),
        (
            "",
            &[("BERTH_TLS_CERT", "")],
            &[],
            r#"tls.cert: "" (env BERTH_TLS_CERT): expected the path of a file"#,
        ),
        (
            "",
            &[("BERTH_TLS_CERT", "/c"), ("BERTH_LOG_FORMAT", "te\nxt")],
            &[],
            r#"log.format: "te\nxt" (env BERTH_LOG_FORMAT): expected text or json"#,
        ),
        (
            "",
            &cert,
            &["--use-class=yes"],
            r#"useClass: "yes" (flag --use-class): expected true or false"#,
        ),
        (
            "",
            &cert,
            &["--log-filter", "debgu"],
            "log.filter: \"debgu\" (flag --log-filter): expected a level (error, warn, info, debug, trace, off) \
             or a list such as info,berth_hub=debug; \"debgu\" is neither",
        ),
        (
            "",
            &cert,
            &["--use-class", "--classes="],
            "classes must name at least one class when useClass is true \
             (useClass: true from flag --use-class, classes: [] from flag --classes)",
        ),
        (
            "",
            &[],
            &[],
            "tls.cert is not set (The certificate shown to peers): give --tls-cert, BERTH_TLS_CERT, \
             or tls.cert in the file of --config or BERTH_CONFIG",
        ),
    ] {
        assert_eq!(error(file, env, flags), line);
    }
}

#[test]
fn unknown_names_are_errors_that_name_the_nearest() {
    for (file, env, line) in [
        (
            "listne: x",
            &[][..],
            r#"/etc/berth/sample.yaml: unknown key "listne"; the nearest known key is `listen`"#,
        ),
        (
            "tls: {clientCA: x}",
            &[],
            r#"/etc/berth/sample.yaml: unknown key "tls.clientCA"; the nearest known key is `tls.clientCa`"#,
        ),
        (
            "clientCa: x",
            &[],
            r#"/etc/berth/sample.yaml: unknown key "clientCa"; the nearest known key is `tls.clientCa`"#,
        ),
        (
            "tsl: {cert: x}",
            &[],
            r#"/etc/berth/sample.yaml: unknown key "tsl"; the nearest known key is `tls`"#,
        ),
        (
            "tls.cert: x",
            &[],
            r#"/etc/berth/sample.yaml: write `tls:` and below it, indented, `cert:` instead of the one key "tls.cert""#,
        ),
        (
            "tls: /some/dir",
            &[],
            "/etc/berth/sample.yaml: `tls` holds no value itself, but further keys: tls.cert, tls.clientCa",
        ),
        (
            "",
            &[("BERTH_LISTEM", "x")],
            r#"unknown environment variable "BERTH_LISTEM"; the nearest known one is `BERTH_LISTEN`"#,
        ),
        (
            "",
            &[("BERTH_CONFG", "x")],
            r#"unknown environment variable "BERTH_CONFG"; the nearest known one is `BERTH_CONFIG`"#,
        ),
    ] {
        assert_eq!(error(file, env, &[]), line);
    }
}

#[test]
fn files_that_are_no_settings_are_one_clear_line() {
    let lines = [
        "listen: [",
        "listen: a: b",
        "listen: x\nlisten: y",
        "- listen",
        "just text",
        "a: 1\n---\nb: 2",
        "listen: 0.0.0.0:1\0\nnote: lost",
        "? [a]\n: b",
    ]
    .map(|file| format!("{file:?} → {}", error(file, &[], &[])))
    .join("\n");
    insta::assert_snapshot!(lines);
}

#[test]
fn empty_parts_of_a_file_give_nothing() {
    let cert = [("BERTH_TLS_CERT", "/c")];
    for file in [
        "",
        "# nothing",
        "---\n# x\n",
        "null",
        "tls:",
        "listen:\nlog: {}\n",
        "tls:\n  # cert: x\nnote: ~",
    ] {
        let settings = parse(file, &cert, &[]).unwrap_or_else(|error| panic!("{file:?}: {error}"));
        assert_eq!(settings, parse("", &cert, &[]).unwrap(), "{file:?}");
    }
}

#[test]
fn lists_are_lists_or_comma_separated_texts() {
    for (file, env, flags) in [
        ("tls: {cert: c}\nclasses: [a, b]", &[][..], &[][..]),
        ("tls: {cert: c}\nclasses: a, b", &[], &[]),
        ("tls: {cert: c}", &[("BERTH_CLASSES", "a,b")], &[]),
        ("tls: {cert: c}", &[], &["--classes", "a,b"]),
        ("tls: {cert: c}", &[], &["--classes=a", "--classes=b"]),
    ] {
        assert_eq!(
            parse(file, env, flags).unwrap().classes,
            ["a", "b"],
            "{file} {env:?} {flags:?}"
        );
    }
}

#[test]
fn variables_of_kubernetes_and_of_the_lab_are_not_ours() {
    let others = [
        ("BERTH_HUB_SERVICE_HOST", "10.96.0.7"),
        ("BERTH_HUB_SERVICE_PORT", "8443"),
        ("BERTH_HUB_SERVICE_PORT_GRPC", "8443"),
        ("BERTH_HUB_PORT", "tcp://10.96.0.7:8443"),
        ("BERTH_HUB_PORT_8443_TCP", "tcp://10.96.0.7:8443"),
        ("BERTH_HUB_PORT_8443_TCP_PROTO", "tcp"),
        ("BERTH_HUB_PORT_8443_TCP_PORT", "8443"),
        ("BERTH_HUB_PORT_8443_TCP_ADDR", "10.96.0.7"),
        ("BERTH_PORT_53_UDP", "udp://10.96.0.7:53"),
        ("BERTH_LAB_BIN", "/opt/lab"),
        ("BERTH_TLS_CERT", "/c"),
        ("PATH", "/bin"),
    ];
    parse("", &others, &[]).unwrap();
    for ours in [
        "BERTH_PORT",
        "BERTH_SERVICE_PORTS",
        "BERTH_PORT_x_TCP",
        "BERTH_X_PORT_1_TCP_FOO",
    ] {
        let line = error("", &[("BERTH_TLS_CERT", "/c"), (ours, "8443")], &[]);
        assert!(line.starts_with("unknown environment variable"), "{line}");
    }
}

#[test]
fn the_file_is_named_by_flag_or_variable_and_must_be_readable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sample.yaml");
    std::fs::write(&path, "note: from the file\ntls: {cert: c}").unwrap();
    let with = |flags: &[&str], config: &str| {
        let command = SettingsArgs::<Sample>::augment_args(Command::new("sample"));
        let words = [&["sample"], flags].concat();
        let matches = command.try_get_matches_from(words).unwrap();
        SettingsArgs::<Sample>::from_arg_matches(&matches)
            .unwrap()
            .resolve_in(variables(&[("BERTH_CONFIG", config)]))
    };
    let text = path.to_str().unwrap();
    let by_env = with(&[], text).unwrap();
    assert_eq!(by_env.parse().unwrap().note, "from the file");
    assert_eq!(by_env.source("note"), Some(text));
    let by_flag = with(&["--config", text], "/does/not/exist").unwrap();
    assert_eq!(by_flag.source("note"), Some(text), "the flag wins");
    let by_none = with(&[], "").unwrap();
    assert_eq!(by_none.source("note"), Some("default"));

    let line = with(&[], "/does/not/exist").unwrap_err().to_string();
    assert_eq!(
        line,
        "cannot read the configuration file \"/does/not/exist\" (env BERTH_CONFIG): No such file or directory (os error 2)"
    );
    let line = with(&["--config", "/"], "").unwrap_err().to_string();
    assert_eq!(
        line,
        "cannot read the configuration file \"/\" (flag --config): Is a directory (os error 21)"
    );
    let line = with(&["--config", "/dev/zero"], "")
        .unwrap_err()
        .to_string();
    assert_eq!(
        line,
        "cannot read the configuration file \"/dev/zero\" (flag --config): larger than 1 MiB"
    );
    std::fs::write(&path, b"note: \xff").unwrap();
    let line = with(&["--config", text], "").unwrap_err().to_string();
    assert!(
        line.ends_with("stream did not contain valid UTF-8"),
        "{line}"
    );
}

#[test]
fn variables_that_are_not_utf8_are_named() {
    use std::os::unix::ffi::OsStringExt;
    let error = resolve::<Sample>(&Inputs {
        environment: vec![("BERTH_NOTE".into(), OsString::from_vec(vec![b'a', 0xff]))],
        ..Inputs::default()
    })
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"note: "a\xFF" (env BERTH_NOTE): expected UTF-8"#
    );
}

#[test]
fn a_table_that_does_not_fit_its_struct_is_found() {
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Fewer {}
    impl Settings for Fewer {
        const TABLE: &'static [Setting] = &[Setting::text("more", "X", "More").default("")];
    }
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct More {
        #[allow(dead_code)]
        more: String,
    }
    impl Settings for More {
        const TABLE: &'static [Setting] = &[];
    }
    let empty = Inputs::default();
    let fewer = resolve::<Fewer>(&empty).unwrap().parse().unwrap_err();
    assert!(matches!(fewer, SettingsError::Table(_)), "{fewer}");
    let more = resolve::<More>(&empty).unwrap().parse().unwrap_err();
    assert!(matches!(more, SettingsError::Table(_)), "{more}");
}

proptest! {
    /// Whatever was given, the printed configuration is a file that gives the same again.
    #[test]
    fn printed_settings_read_back_the_same(
        note in "\\PC*|(?s).*|[-+.0-9eExo_:]{0,6}|true|~|null|yes|No|=|<<",
        classes in prop::collection::vec("[ -+\\--~]{1,8}|true|1|-|~|a:", 0..4),
    ) {
        let classes = classes.iter().map(|it| it.trim()).filter(|it| !it.is_empty());
        let classes = classes.collect::<Vec<_>>().join(",");
        let first = resolve::<Sample>(&Inputs {
            environment: variables(&[("BERTH_TLS_CERT", "c")]),
            flags: [("note", note.clone()), ("classes", classes)].into(),
            ..Inputs::default()
        }).unwrap();
        let printed = first.to_string();
        prop_assert_eq!(printed.lines().count(), 10, "one line each: {}", printed);
        let again = resolve::<Sample>(&Inputs {
            file: Some((PathBuf::from("again"), printed.clone())),
            ..Inputs::default()
        });
        let again = again.unwrap_or_else(|error| panic!("{error} in\n{printed}"));
        prop_assert_eq!(first.parse().unwrap(), again.parse().unwrap());
        // Another reader of YAML agrees.
        let other: serde_yaml::Value = serde_yaml::from_str(&printed).unwrap();
        prop_assert_eq!(other["note"].as_str(), Some(note.as_str()));
    }

    /// No file, whatever is in it, makes more than one line of error.
    #[test]
    fn any_file_is_settings_or_one_line(file in "(?s).{0,40}|([a-z]{1,3}: ?[\\[\\]{}&*!|>'\"%@`,?:-]{0,4}\n?){0,5}") {
        if let Err(error) = parse(&file, &[("BERTH_TLS_CERT", "c")], &[]) {
            prop_assert!(!error.to_string().contains(char::is_control), "{:?}", error.to_string());
        }
    }
}
