//! A host on the fabric from which load balancers are tried, as a rule the one beside the clusters: nothing but an address. Knows
//! HTTP, datagrams and commands; must not know who serves what.

use std::net::SocketAddr;
use std::time::Duration;

use crate::control::{Command, Control};
use crate::error::{Context, Error, Result};
use crate::http;
use crate::wait::{Seen, eventually};

/// A host that asks.
#[derive(Debug, Clone)]
pub struct Client {
    control: Option<Control>,
    netns: String,
}

impl Client {
    pub(crate) fn new(control: Option<Control>, netns: &str) -> Self {
        let netns = netns.to_owned();
        Self { control, netns }
    }

    fn control(&self) -> Result<&Control> {
        self.control.as_ref().ok_or_else(|| {
            Error::Start("this lab moves no packets: it was started without namespaces".into())
        })
    }

    /// A command on this host, to be refined and run.
    pub fn command<S: Into<String>>(&self, argv: impl IntoIterator<Item = S>) -> Result<Command> {
        Ok(self.control()?.command(argv).netns(&self.netns))
    }

    /// Runs a command on this host and returns what it prints.
    pub async fn sh<S: Into<String>>(&self, argv: impl IntoIterator<Item = S>) -> Result<String> {
        self.command(argv)?.run().await
    }

    /// Fetches `http://<address>:<port>/<path>` once, on a connection of its own, and returns the body. No answer is
    /// [`Error::Unanswered`]; an answer other than 200 is an error too.
    pub async fn get(&self, url: &str) -> Result<String> {
        let (address, path) = split(url)?;
        let answer = http::get(self.control()?, Some(&self.netns), address, path).await?;
        match answer {
            (200, body) => Ok(body),
            (status, body) => Err(Error::Start(format!("{url} answered {status}: {body}"))),
        }
    }

    /// Sends one datagram from a socket of its own, and returns what comes back within a second. Nothing, or the word that nobody
    /// listens, is [`Error::Unanswered`].
    pub async fn datagram(&self, to: SocketAddr, payload: &str) -> Result<String> {
        let asked = self.control()?.datagram(&self.netns, to, payload).await;
        asked.map_err(|error| match error {
            Error::Refused(why) => Error::Unanswered {
                request: format!("a datagram to {to}"),
                why,
            },
            error => error,
        })
    }

    /// Fetches a URL until nobody answers, at most for `deadline`.
    pub async fn await_silence(&self, url: &str, deadline: Duration) -> Result<()> {
        let what = format!("{url} stops answering");
        eventually(deadline, &what, || async {
            match self.get(url).await {
                Err(Error::Unanswered { .. }) => Ok(()),
                Err(error) => Err(error.into()),
                Ok(answer) => Err(Seen(format!("the answer {answer}"))),
            }
        })
        .await
    }

    /// Fetches a URL until it answers, at most for `deadline`.
    pub async fn await_get(&self, url: &str, deadline: Duration) -> Result<String> {
        let what = format!("the client reaches {url}");
        eventually(deadline, &what, || async { Ok(self.get(url).await?) }).await
    }
}

/// The address and the path of a URL. The client has no DNS, so its host is an address.
fn split(url: &str) -> Result<(SocketAddr, &str)> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let slash = rest.find('/').unwrap_or(rest.len());
    let (address, path) = rest.split_at(slash);
    let address = address
        .parse()
        .with_context(|| format!("{url} is not http://<address>:<port>/<path>"))?;
    Ok((address, if path.is_empty() { "/" } else { path }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_need_an_address_and_a_port() {
        let (address, path) = split("http://10.10.255.200:3000/a/b").unwrap();
        assert_eq!((address.port(), path), (3000, "/a/b"));
        assert_eq!(split("http://10.10.255.200:80").unwrap().1, "/");
        assert!(split("http://backend/").is_err());
    }
}
