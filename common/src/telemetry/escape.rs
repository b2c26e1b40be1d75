//! Keeps a log line one line. Names and messages come from tenants, and `tracing-subscriber` writes fields given with
//! `%` as they are: a newline would forge a second line, an escape sequence would drive the reader's terminal. This
//! stands behind both formats, where nothing can be forgotten, and relies on one `write` per event.

use std::{
    fmt::Write as _,
    io::{self, Write},
    sync::Arc,
};

use tracing_subscriber::fmt::MakeWriter;

/// Makes [`Escaping`] writers from the writers of another; clones share it.
#[derive(Debug)]
pub(super) struct MakeEscaping<M>(pub(super) Arc<M>);

impl<M> Clone for MakeEscaping<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for MakeEscaping<M> {
    type Writer = Escaping<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Escaping(self.0.make_writer())
    }

    fn make_writer_for(&'a self, meta: &tracing::Metadata<'_>) -> Self::Writer {
        Escaping(self.0.make_writer_for(meta))
    }
}

/// Escapes everything but the newline at the very end of each write.
#[derive(Debug)]
pub(super) struct Escaping<W>(W);

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        // The formatters hand over whole events made of `str`; anything else is made readable rather than lost.
        let text = String::from_utf8_lossy(event);
        let (body, end) = match text.strip_suffix('\n') {
            Some(body) => (body, "\n"),
            None => (text.as_ref(), ""),
        };
        if body.contains(is_dangerous) {
            self.0.write_all((escape(body) + end).as_bytes())?;
        } else {
            self.0.write_all(event)?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Control characters, line and paragraph separators, and the marks that reorder the text around them.
fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// Writes each dangerous character as `\uXXXX`: readable in text, and what JSON calls it too.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_dangerous(c) {
            // Writing to a String does not fail.
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(event: &str) -> String {
        let mut out = Vec::new();
        Escaping(&mut out)
            .write_all(event.as_bytes())
            .expect("a Vec takes everything");
        String::from_utf8(out).expect("text stays text")
    }

    #[test]
    fn harmless_lines_pass_unchanged() {
        let line = "INFO berth: Dienst „größe“ läuft\n";
        assert_eq!(written(line), line);
    }

    #[test]
    fn only_the_last_newline_is_a_newline() {
        assert_eq!(
            written("a\nb\x1b[2J\r\n\n"),
            "a\\u000ab\\u001b[2J\\u000d\\u000a\n"
        );
        assert_eq!(written("\u{9b}31m\u{202e}x"), "\\u009b31m\\u202ex");
    }

    proptest! {
        #[test]
        fn one_event_is_one_line_without_control_characters(event in ".*(\\n)?|\\PC*|(?s).*") {
            let line = written(&format!("{event}\n"));
            let body = line.strip_suffix('\n').expect("the event's own newline");
            prop_assert!(!body.contains(is_dangerous), "{body:?}");
        }
    }
}
