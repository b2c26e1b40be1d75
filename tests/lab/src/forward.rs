//! A port on the machine's 127.0.0.1 for a port inside the lab. Knows bytes only.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::error::{Context, Result};
use crate::site::Site;

/// Forwards from now until the lab ends, and returns where to connect.
pub(crate) async fn open(site: &Site, netns: Option<&str>, to: SocketAddr) -> Result<SocketAddr> {
    let failed = "cannot listen on 127.0.0.1";
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.context(failed)?;
    let from = listener.local_addr().context(failed)?;
    let control = site.sandbox.control.clone();
    let netns = netns.map(str::to_owned);
    site.run(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((mut outside, _)) = accepted else { continue };
                    // Small writes pass on at once, as they would without a forwarder. If it cannot be set, they are late.
                    let _ = outside.set_nodelay(true);
                    let (control, netns) = (control.clone(), netns.clone());
                    connections.spawn(async move {
                        // What cannot be reached closes, as a refused connection would.
                        if let Ok(mut inside) = control.dial(netns.as_deref(), to).await {
                            let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
                        }
                    });
                }
                Some(_) = connections.join_next() => {}
            }
        }
    });
    Ok(from)
}
