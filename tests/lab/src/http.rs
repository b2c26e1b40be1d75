//! One HTTP request to a server inside the lab, over a dialled stream. Knows HTTP/1.1; for metrics and health, not for load.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use crate::control::Control;
use crate::error::{Context, Error, Result};

/// Whatever is asked here answers from memory, and a packet that is lost on this fabric is lost for good.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Gets a path, and returns the status and the body.
pub(crate) async fn get(
    control: &Control,
    netns: Option<&str>,
    address: SocketAddr,
    path: &str,
) -> Result<(u16, String)> {
    let what = || format!("GET http://{address}{path}");
    let unanswered = |why| {
        let request = what();
        Err(Error::Unanswered { request, why })
    };
    match tokio::time::timeout(TIMEOUT, request(control, netns, address, path)).await {
        Ok(Err(Error::Refused(why))) => unanswered(why),
        Ok(answer) => answer.with_context(what),
        Err(_) => unanswered(format!("no answer in {TIMEOUT:?}")),
    }
}

async fn request(
    control: &Control,
    netns: Option<&str>,
    address: SocketAddr,
    path: &str,
) -> Result<(u16, String)> {
    let failed = "the server does not speak HTTP";
    let stream = control.dial(netns, address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .context(failed)?;
    let request = http::Request::get(path)
        .header(http::header::HOST, address.to_string())
        .body(Empty::<bytes::Bytes>::new())
        .context("the path is malformed")?;
    let exchange = async {
        let response = sender.send_request(request).await.context(failed)?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.context(failed)?;
        Ok((
            status,
            String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        ))
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // The connection may end with the answer's last byte, before the answer is taken.
        _ = connection => exchange.await,
    }
}
