//! The layer of the environment: which variables are settings, which are none of ours, and which are mistakes. Pure: the
//! variables are a parameter.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
};

use super::{
    error::SettingsError,
    layer::{Layer, bad, from_text},
    nearest::nearest,
    table::{CONFIG_ENV, ENV_PREFIX, Setting},
};

/// What the variables `BERTH_…` say. Those of the lab (`BERTH_LAB_…`) are not ours, and neither are those that Kubernetes
/// sets in each pod for each Service, `berth-hub` among them.
pub(super) fn layer(
    table: &'static [Setting],
    variables: &[(OsString, OsString)],
) -> Result<Layer, SettingsError> {
    let known: BTreeMap<String, &Setting> = table.iter().map(|it| (it.env(), it)).collect();
    // Sorted, so that of two errors it is always the same one that is shown.
    let variables: BTreeMap<_, _> = variables
        .iter()
        .map(|(name, value)| (name.to_string_lossy(), value))
        .filter(|(name, _)| name.starts_with(ENV_PREFIX) && name != CONFIG_ENV)
        .collect();
    let mut layer = Layer::default();
    for (name, value) in variables {
        if let Some(setting) = known.get(name.as_ref()) {
            let origin = format!("env {name}");
            let Some(text) = value.to_str() else {
                let reason = "expected UTF-8";
                return Err(bad(setting, format!("{value:?}"), &origin, reason));
            };
            layer
                .0
                .insert(setting.key, from_text(setting, text, &origin)?);
        } else if !name.starts_with("BERTH_LAB_") && !is_service_link(&name, value) {
            let names = known.keys().map(String::as_str).chain([CONFIG_ENV]);
            return Err(SettingsError::UnknownEnv {
                nearest: nearest(&name, names).unwrap_or(CONFIG_ENV).to_owned(),
                name: name.into_owned(),
            });
        }
    }
    Ok(layer)
}

/// Whether Kubernetes made this variable for a Service (`enableServiceLinks`): `<NAME>_SERVICE_HOST`,
/// `<NAME>_SERVICE_PORT[_<PORT NAME>]`, `<NAME>_PORT=tcp://…`, `<NAME>_PORT_<NUMBER>_<PROTOCOL>[_PROTO|_PORT|_ADDR]`.
fn is_service_link(name: &str, value: &OsStr) -> bool {
    if name.ends_with("_SERVICE_HOST") {
        return true;
    }
    if let Some((_, port_name)) = name.split_once("_SERVICE_PORT") {
        return port_name.is_empty() || port_name.starts_with('_');
    }
    if name.ends_with("_PORT") && value.to_string_lossy().contains("://") {
        return true;
    }
    let Some((_, port)) = name.split_once("_PORT_") else {
        return false;
    };
    let mut parts = port.split('_');
    let number = parts.next().is_some_and(|it| it.parse::<u16>().is_ok());
    let protocol = matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"));
    let detail = matches!(parts.next(), None | Some("PROTO" | "PORT" | "ADDR"));
    number && protocol && detail && parts.next().is_none()
}
