//! One probe: a connection, and where healthz is asked, the first line of the answer. It follows nothing, reads no more than
//! it needs, and tells only what came of it.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::node::{Outcome, Probe};

/// The most that is read of an answer: enough for `HTTP/1.0 200 `.
const LIMIT: usize = 64;

/// Asks, and waits no longer than `limit`.
pub async fn probe(address: IpAddr, probe: Probe, limit: Duration) -> Outcome {
    let asked = async {
        match probe {
            Probe::Healthz(port) => healthz((address, port).into()).await,
            Probe::Connect(port) => connect((address, port).into()).await,
        }
    };
    timeout(limit, asked).await.unwrap_or(Outcome::Silent)
}

async fn connect(address: SocketAddr) -> Outcome {
    match TcpStream::connect(address).await {
        Ok(stream) => {
            // Ended by a reset: nothing is left on this side to wait for, and the pod behind it need not notice.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            Outcome::Good
        }
        Err(error) => not_connected(&error),
    }
}

async fn healthz(address: SocketAddr) -> Outcome {
    let mut stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) => return not_connected(&error),
    };
    let request =
        format!("GET /healthz HTTP/1.0\r\nHost: {address}\r\nUser-Agent: berth-hub\r\n\r\n");
    match ask(&mut stream, request.as_bytes()).await {
        Ok(Some(200..=299)) => Outcome::Good,
        Ok(Some(503)) => Outcome::Draining,
        // Also a peer that ends the connection: it is alive, and no healthz.
        Ok(_) | Err(_) => Outcome::Odd,
    }
}

/// Returns the status, if the answer begins as HTTP does.
async fn ask(stream: &mut TcpStream, request: &[u8]) -> io::Result<Option<u16>> {
    stream.write_all(request).await?;
    let mut answer = [0; LIMIT];
    let mut length = 0;
    while length < LIMIT {
        let read = stream.read(&mut answer[length..]).await?;
        length += read;
        if let Some(status) = status(&answer[..length]) {
            return Ok(Some(status));
        }
        if read == 0 {
            break;
        }
    }
    Ok(None)
}

/// The status of `HTTP/1.x NNN `.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.strip_prefix(b"HTTP/1.")?;
    let number = line.get(2..5).filter(|_| line.get(1) == Some(&b' '))?;
    let is_whole = matches!(line.get(5), Some(b' ' | b'\r' | b'\n'));
    let text = std::str::from_utf8(number).ok().filter(|_| is_whole)?;
    text.parse().ok()
}

fn not_connected(error: &io::Error) -> Outcome {
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Outcome::Refused,
        // What its neighbours or routers say of it, or nothing.
        ErrorKind::HostUnreachable | ErrorKind::TimedOut => Outcome::Silent,
        // No route, no socket, no local port: the hub's own trouble, as far as one can tell.
        _ => Outcome::NoRoute,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);
    const SHORT: Duration = Duration::from_millis(100);

    /// A listener that answers each connection with these bytes, or for ever with nothing.
    async fn listener(answer: Option<&'static [u8]>) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                match answer {
                    Some(answer) => {
                        let mut request = [0; 256];
                        let _ = stream.read(&mut request).await;
                        let _ = stream.write_all(answer).await;
                    }
                    None => open.push(stream),
                }
            }
        });
        address
    }

    async fn healthz_of(answer: Option<&'static [u8]>, limit: Duration) -> Outcome {
        let address = listener(answer).await;
        probe(address.ip(), Probe::Healthz(address.port()), limit).await
    }

    #[tokio::test]
    async fn healthz_is_read_by_its_status_line_alone() {
        let answers: [(&[u8], Outcome); 7] = [
            (b"HTTP/1.0 200 OK\r\n\r\n{}", Outcome::Good),
            (
                b"HTTP/1.1 503 Service Unavailable\r\n\r\n",
                Outcome::Draining,
            ),
            (
                b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
                Outcome::Odd,
            ),
            (b"HTTP/1.1 404 Not Found\r\n\r\n", Outcome::Odd),
            (b"HTTP/1.1 2000 OK\r\n\r\n", Outcome::Odd),
            (b"SSH-2.0-OpenSSH_9.6\r\n", Outcome::Odd),
            (b"", Outcome::Odd),
        ];
        for (answer, outcome) in answers {
            assert_eq!(healthz_of(Some(answer), LIMIT).await, outcome, "{answer:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_without_end_is_not_read_to_its_end() {
        static LONG: [u8; 1 << 20] = [b'x'; 1 << 20];
        assert_eq!(healthz_of(Some(&LONG), LIMIT).await, Outcome::Odd);
    }

    #[tokio::test]
    async fn who_takes_the_connection_and_says_nothing_is_silent() {
        assert_eq!(healthz_of(None, SHORT).await, Outcome::Silent);
    }

    #[tokio::test]
    async fn a_connection_is_enough_for_a_node_port() {
        let address = listener(None).await;
        let outcome = probe(address.ip(), Probe::Connect(address.port()), LIMIT).await;
        assert_eq!(outcome, Outcome::Good);
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_from_silence() {
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = closed.local_addr().unwrap();
        drop(closed);
        for asked in [
            Probe::Healthz(address.port()),
            Probe::Connect(address.port()),
        ] {
            assert_eq!(probe(address.ip(), asked, LIMIT).await, Outcome::Refused);
        }
    }

    #[tokio::test]
    async fn what_the_kernel_says_of_itself_is_no_silence_of_the_host() {
        // No machine routes this one, for it is no destination.
        let nowhere = IpAddr::from([255, 255, 255, 255]);
        let outcome = probe(nowhere, Probe::Connect(80), LIMIT).await;
        assert_eq!(outcome, Outcome::NoRoute);
    }
}
