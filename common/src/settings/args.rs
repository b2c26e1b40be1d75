//! Flags from the table, for `clap`: `#[command(flatten)]` a [`SettingsArgs`] into a subcommand. This is also the one
//! place where settings touch the world: [`SettingsArgs::resolve`] reads the environment and the file.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs, io,
    io::Read,
    marker::PhantomData,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};

use super::{
    Inputs, Resolved, Settings, SettingsError,
    error::one_line,
    resolve,
    table::{CONFIG_ENV, Kind, Setting},
};

/// The longest file that is read: far more than any configuration, and an end to `--config /dev/zero`.
const MAX_FILE: u64 = 1024 * 1024;

const PRECEDENCE: &str = "Each setting is taken from its flag, else from its BERTH_ variable, else from the YAML file, \
    else from its default. In the file it has its flag's name in camelCase, nested where --print-config shows it nested.";

/// What the command line said about settings.
#[derive(Clone, Debug)]
pub struct SettingsArgs<T> {
    config: Option<PathBuf>,
    print_config: bool,
    flags: BTreeMap<&'static str, String>,
    struct_type: PhantomData<fn() -> T>,
}

impl<T: Settings> SettingsArgs<T> {
    /// `--print-config`: print what [`Self::resolve`] gives, and do nothing else.
    pub fn print_config(&self) -> bool {
        self.print_config
    }

    /// The flags that were given, as text by the setting's key.
    pub fn given(&self) -> &BTreeMap<&'static str, String> {
        &self.flags
    }

    /// Merges the flags with this process's environment and the file that `--config` or `BERTH_CONFIG` names.
    pub fn resolve(&self) -> Result<Resolved<T>, SettingsError> {
        self.resolve_in(env::vars_os().collect())
    }

    /// The same in a given environment.
    pub(super) fn resolve_in(
        &self,
        environment: Vec<(OsString, OsString)>,
    ) -> Result<Resolved<T>, SettingsError> {
        // An empty variable is none: that is how a chart or a shell leaves one out.
        let named = environment
            .iter()
            .find(|(name, value)| name == CONFIG_ENV && !value.is_empty())
            .map(|(_, value)| (PathBuf::from(value), "env BERTH_CONFIG"));
        let flag = self.config.clone().map(|path| (path, "flag --config"));
        let file = flag
            .or(named)
            .map(|(path, named_by)| read(&path, named_by).map(|text| (path, text)))
            .transpose()?;
        resolve(&Inputs {
            file,
            environment,
            flags: self.flags.clone(),
        })
    }
}

fn read(path: &Path, named_by: &'static str) -> Result<String, SettingsError> {
    read_bounded(path).map_err(|error| SettingsError::FileUnreadable {
        path: path.to_owned(),
        named_by,
        reason: one_line(&error.to_string()),
    })
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other("larger than 1 MiB"));
    }
    Ok(text)
}

impl<T: Settings> Args for SettingsArgs<T> {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help(format!("The YAML file with settings [env: {CONFIG_ENV}]"))
            .help_heading("Configuration");
        let print = Arg::new("print-config")
            .long("print-config")
            .action(ArgAction::SetTrue)
            .help("Print all settings as YAML, each with its source, and exit")
            .help_heading("Configuration");
        command
            .args([config, print])
            .args(T::TABLE.iter().map(argument))
            .after_help(PRECEDENCE)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<T: Settings> FromArgMatches for SettingsArgs<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flags = T::TABLE
            .iter()
            .filter_map(|setting| {
                let values = matches.get_many::<String>(setting.key)?;
                let values: Vec<&str> = values.map(String::as_str).collect();
                Some((setting.key, values.join(",")))
            })
            .collect();
        Ok(Self {
            config: matches.get_one::<PathBuf>("config").cloned(),
            print_config: matches.get_flag("print-config"),
            flags,
            struct_type: PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// A row as an argument. Its value stays text here: the layers read texts of all sources alike, with alike errors.
fn argument(setting: &Setting) -> Arg {
    let default = match setting.default {
        None => "required".to_owned(),
        Some("") => "default: none".to_owned(),
        Some(text) => format!("default: {text}"),
    };
    // On a line of its own, so that the names stand in a column and are not broken.
    let help = format!("{}\n[env: {}, {default}]", setting.help, setting.env());
    let argument = Arg::new(setting.key)
        .long(setting.flag())
        .value_name(setting.placeholder)
        .help(help)
        .help_heading("Settings");
    match setting.kind {
        Kind::Text | Kind::Number => argument.action(ArgAction::Set),
        Kind::List => argument.action(ArgAction::Append),
        // The value needs its `=`: of `--flag false`, `false` would look like a word of its own.
        Kind::Bool => argument
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
    }
}
