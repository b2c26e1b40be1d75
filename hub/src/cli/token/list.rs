//! `token list`: one line for each token that is remembered.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use berth_common::tls::in_words;
use clap::Args;

use super::{CliError, Console, StoreArgs};
use crate::enroll::{Entry, TokenId};

const HEAD: [&str; 5] = ["ID", "TENANT", "STATE", "DEADLINE", "CERTIFICATE"];

/// Arguments of `token list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    store: StoreArgs,
}

pub(super) async fn run(
    arguments: ListArgs,
    console: &mut Console<'_>,
) -> Result<ExitCode, CliError> {
    let (_, tokens) = arguments.store.open().await?;
    let all = tokens.list().await?;
    if all.is_empty() {
        writeln!(
            console.notes,
            "there are no tokens: `berth-hub token create NAME` makes one"
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    console.out.write_all(table(&all, console.now).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn table(tokens: &BTreeMap<TokenId, Entry>, now: SystemTime) -> String {
    let rows = tokens.iter().map(|(id, entry)| {
        let serial = entry.used.as_ref().map(|bound| &bound.certificate.serial);
        [
            id.to_string(),
            entry.tenant.to_string(),
            entry.state(now).to_owned(),
            deadline(entry.deadline, now),
            serial.cloned().unwrap_or_else(|| "-".into()),
        ]
    });
    let mut rows: Vec<[String; 5]> = rows.collect();
    rows.insert(0, HEAD.map(str::to_owned));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths);
            let line: Vec<String> = cells
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            format!("{}\n", line.join("  ").trim_end())
        })
        .collect()
}

fn deadline(seconds: u64, now: SystemTime) -> String {
    let deadline = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    match deadline.duration_since(now) {
        Ok(left) => format!("in {}", in_words(left)),
        Err(past) => format!("{} ago", in_words(past.duration())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enroll::{Decision, Signed, Token};

    #[test]
    fn the_table_reads_well() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_413_000);
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let entry = |seed: u8, tenant: &str, made: SystemTime| {
            let token = Token::new(&[seed; 32]);
            let tenant = tenant.parse().unwrap();
            let digest = token.digest();
            let entry = Entry::new(&digest, tenant, "uid".into(), minutes(30), made);
            (digest, entry)
        };
        let (used, mut first) = entry(1, "acme", now - minutes(10));
        let signed = Signed {
            serial: "0badcafe".into(),
            at: 0,
            seconds: 60,
        };
        let Ok(Decision::First(next)) = first.decide(&used, "key", signed, now) else {
            panic!("a token that is good");
        };
        first = next;
        let (unused, second) = entry(2, "a-tenant-with-a-longer-name", now);
        let (expired, third) = entry(3, "bravo", now - minutes(45));
        let all = [
            (used.id(), first),
            (unused.id(), second),
            (expired.id(), third),
        ];
        insta::assert_snapshot!(table(&all.into(), now));
    }
}
