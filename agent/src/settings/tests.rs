//! The agent's table as its operator meets it.

use berth_common::settings::{Inputs, SettingsArgs, check_table, resolve};
use clap::{Args, Command};

use super::*;

fn inputs(file: &str) -> Inputs {
    Inputs {
        file: Some((
            "agent.yaml".into(),
            format!("hub: {{address: 'hub:8443'}}\n{file}"),
        )),
        ..Inputs::default()
    }
}

fn parse(file: &str) -> Result<AgentSettings, String> {
    resolve::<AgentSettings>(&inputs(file))
        .and_then(|resolved| resolved.parse())
        .map_err(|error| error.to_string())
}

#[test]
fn the_table_is_sound_and_complete_and_its_defaults_are_good() {
    check_table::<AgentSettings>().unwrap();
    let settings = parse("").unwrap();
    assert_eq!(settings.hub.server_name().as_str(), "hub");
    assert!(!settings.use_load_balancer_class);
    assert_eq!(settings.node_address_type, [AddressType::InternalIp]);
    let classes: Vec<&str> = settings
        .load_balancer_classes
        .iter()
        .map(|it| it.as_str())
        .collect();
    assert_eq!(classes, ["berth.dev/berth"]);
}

#[test]
fn only_the_hub_must_be_given() {
    let error = resolve::<AgentSettings>(&Inputs::default())
        .unwrap()
        .parse()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "hub.address is not set (The hub to connect to): give --hub-address, BERTH_HUB_ADDRESS, \
         or hub.address in the file of --config or BERTH_CONFIG"
    );
}

#[test]
fn defaults_print_as_a_file() {
    insta::assert_snapshot!(resolve::<AgentSettings>(&Inputs::default()).unwrap());
}

#[test]
fn help_reads_well() {
    let mut command =
        SettingsArgs::<AgentSettings>::augment_args(Command::new("berth-agent")).term_width(100);
    command.build();
    insta::assert_snapshot!(command.render_help());
}

#[test]
fn node_address_type_is_one_or_a_preference() {
    use AddressType::{ExternalIp, InternalIp};
    for (file, wanted) in [
        ("nodeAddressType: ExternalIP", &[ExternalIp][..]),
        (
            "nodeAddressType: ExternalIP,InternalIP",
            &[ExternalIp, InternalIp],
        ),
        (
            "nodeAddressType: [InternalIP, ExternalIP]",
            &[InternalIp, ExternalIp],
        ),
    ] {
        assert_eq!(parse(file).unwrap().node_address_type, wanted, "{file}");
    }
}

#[test]
fn the_service_link_variables_of_the_hub_are_not_the_agents_settings() {
    let mut inputs = inputs("");
    inputs.environment = vec![
        ("BERTH_HUB_SERVICE_HOST".into(), "10.96.0.7".into()),
        ("BERTH_HUB_PORT".into(), "tcp://10.96.0.7:8443".into()),
        ("BERTH_HUB_SERVER_NAME".into(), "hub.example.com".into()),
    ];
    let settings = resolve::<AgentSettings>(&inputs).unwrap().parse().unwrap();
    assert_eq!(settings.hub.server_name().as_str(), "hub.example.com");
}

#[test]
fn bad_values_say_what_is_expected() {
    for (file, line) in [
        (
            "nodeAddressType: [InternalIP, Hostname]",
            "nodeAddressType: [\"InternalIP\", \"Hostname\"] (agent.yaml): expected InternalIP or ExternalIP: \
             traffic goes to addresses, and this type is a name",
        ),
        (
            "nodeAddressType: [InternalIP, InternalIP]",
            "nodeAddressType: [\"InternalIP\", \"InternalIP\"] (agent.yaml): expected each type once; \
             InternalIP is there twice",
        ),
        (
            "nodeAddressType: []",
            "nodeAddressType: [] (agent.yaml): expected InternalIP, ExternalIP or both",
        ),
        (
            "loadBalancerClasses: [kubelb, 'a b']",
            "loadBalancerClasses[1]: [\"kubelb\", \"a b\"] (agent.yaml): expected classes such as berth.dev/berth: \
             an optional lower-case domain with a slash, and a name",
        ),
        (
            "useLoadBalancerClass: true\nloadBalancerClasses: []",
            "loadBalancerClasses must name at least one class when useLoadBalancerClass is true, or no Service \
             would be served (useLoadBalancerClass: true from agent.yaml, loadBalancerClasses: [] from agent.yaml)",
        ),
        (
            "tls: {key: /etc/berth/tls/tls.crt}",
            "tls.cert and tls.key must be different files (tls.cert: \"/etc/berth/tls/tls.crt\" from default, \
             tls.key: \"/etc/berth/tls/tls.crt\" from agent.yaml)",
        ),
    ] {
        assert_eq!(parse(file).unwrap_err(), line);
    }
    let mut inputs = inputs("");
    inputs.flags = [("hub.address", "https://hub:8443".to_owned())].into();
    let error = resolve::<AgentSettings>(&inputs)
        .unwrap()
        .parse()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "hub.address: \"https://hub:8443\" (flag --hub-address): expected host:port, such as \
         hub.example.com:8443 or [2001:db8::1]:8443, without a scheme"
    );
}
