//! Log lines: their settings, and the subscriber that writes them to stderr. It decides the form of a line, never its
//! content.

use std::{io, str::FromStr, sync::Arc};

use serde::Deserialize;
use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, LevelFilter, filter_fn},
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    registry,
    util::SubscriberInitExt,
};

use super::escape::MakeEscaping;
use crate::settings::Setting;

/// The row of `log.format`, for the tables of hub and agent.
pub const LOG_FORMAT: Setting = Setting::text(
    "log.format",
    "FORMAT",
    "How log lines are written: text or json",
)
.default("text");

/// The row of `log.filter`, for the tables of hub and agent.
pub const LOG_FILTER: Setting = Setting::text(
    "log.filter",
    "FILTER",
    "What is logged: a level, or levels by target, such as info,berth_hub=debug",
)
.default("info");

/// The target of the audit log's events: they are JSON whatever `log.format` says, and no `log.filter` leaves them out.
pub const AUDIT: &str = "audit";

/// The settings under `log`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LogSettings {
    /// `log.format`.
    pub format: LogFormat,
    /// `log.filter`.
    pub filter: LogFilter,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum LogFormat {
    /// For people: time, level, spans, message, fields.
    Text,
    /// For collectors: one JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("expected text or json"),
        }
    }
}

impl TryFrom<String> for LogFormat {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// A filter that `tracing-subscriber` understands, checked when it was parsed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct LogFilter(String);

impl LogFilter {
    /// The filter as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "expected a level (error, warn, info, debug, trace, off) or a list such as info,berth_hub=debug";
        for directive in text.split(',').map(str::trim) {
            // To the library a lone word is a target to be traced: the typo `debgu` would silence everything else.
            let is_lone_word = !directive.contains(['=', '[']);
            let is_level = !directive.is_empty() && directive.parse::<LevelFilter>().is_ok();
            if is_lone_word && !is_level {
                return Err(format!("{expected}; {directive:?} is neither"));
            }
        }
        EnvFilter::builder()
            .parse(text)
            .map_err(|error| format!("{expected} ({error})"))?;
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for LogFilter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Something in this process has installed a subscriber before.
    #[error("logging was started twice in one process")]
    AlreadyStarted(#[source] tracing_subscriber::util::TryInitError),
}

/// Starts logging to stderr for the whole process. Records of the `log` crate are taken along.
pub fn init(settings: &LogSettings) -> Result<(), InitError> {
    subscriber(settings, io::stderr)
        .try_init()
        .map_err(InitError::AlreadyStarted)
}

/// The subscriber that [`init`] installs, writing to `out` instead: for tests that read the lines.
pub fn subscriber<W>(settings: &LogSettings, out: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let out = MakeEscaping(Arc::new(out));
    let filter = EnvFilter::builder().parse_lossy(settings.filter.as_str());
    // No colours: whoever writes escape sequences of their own cannot escape those of others.
    let lines = fmt::layer().with_ansi(false).with_writer(out.clone());
    let lines = match settings.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let lines = lines.with_filter(filter.and(filter_fn(|of| of.target() != AUDIT)));
    let audit = fmt::layer()
        .with_ansi(false)
        .with_writer(out)
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_filter(filter_fn(|of| of.target() == AUDIT));
    Box::new(registry().with(lines).with(audit))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const HOSTILE: &str =
        "web\n2026-11-01T00:00:00Z ERROR berth_hub: forged\x1b[2J\u{9b}31m\r\u{2028}";

    /// Everything that a tenant's string can reach: a span's field, a message, fields by Display and by Debug, an error.
    fn logged(format: LogFormat, filter: &str) -> String {
        let out = Lines::default();
        let settings = LogSettings {
            format,
            filter: filter.parse().unwrap(),
        };
        let make = {
            let out = out.clone();
            move || out.clone()
        };
        tracing::subscriber::with_default(subscriber(&settings, make), || {
            let _span = tracing::info_span!("session", tenant = %HOSTILE).entered();
            let error = io::Error::other(HOSTILE);
            tracing::info!(
                service = %HOSTILE,
                debug = ?HOSTILE,
                text = HOSTILE,
                error = &error as &dyn std::error::Error,
                "message {HOSTILE}"
            );
            tracing::debug!("details");
        });
        String::from_utf8(out.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn hostile_60_a_text_line_stays_one_line() {
        let out = logged(LogFormat::Text, "info");
        assert_eq!(out.matches('\n').count(), 1, "{out:?}");
        let line = out.strip_suffix('\n').unwrap();
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(line.contains(r"service=web\u000a2026"), "{line}");
    }

    #[test]
    fn hostile_60_a_json_line_stays_one_line_and_json() {
        let out = logged(LogFormat::Json, "info");
        assert_eq!(out.matches('\n').count(), 1, "{out:?}");
        let line = out.strip_suffix('\n').unwrap();
        assert!(!line.contains(char::is_control), "{line:?}");
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            event["service"], HOSTILE,
            "a JSON reader gets the value back"
        );
        assert_eq!(event["span"]["tenant"], HOSTILE);
        assert_eq!(event["level"], "INFO");
    }

    #[test]
    fn the_filter_decides_what_is_logged() {
        assert_eq!(logged(LogFormat::Text, "debug").lines().count(), 2);
        assert_eq!(logged(LogFormat::Text, "off").lines().count(), 0);
        let ours = format!("warn,{}=debug", module_path!());
        assert_eq!(logged(LogFormat::Text, &ours).lines().count(), 2);
    }

    #[test]
    fn filters_that_would_silence_everything_by_a_typo_are_errors() {
        for good in [
            "info",
            "INFO",
            "off",
            "warn,kube=debug",
            "berth_hub[session{tenant=acme}]=trace",
        ] {
            good.parse::<LogFilter>()
                .unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        for bad in ["", "debgu", "info,", "info,berth_hub", "berth_hub=loud"] {
            let error = bad.parse::<LogFilter>().expect_err(bad);
            assert!(error.starts_with("expected a level"), "{bad}: {error}");
            assert!(!error.contains('\n'), "{bad}: {error}");
        }
    }
}
