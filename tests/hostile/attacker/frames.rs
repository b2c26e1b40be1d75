//! HTTP/2 frame by frame, without a library that would keep to its rules.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split},
    time::timeout,
};

use super::tls::{Connection, PATIENCE};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const ACK: u8 = 1;

pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// The path of sessions.
pub(crate) const SYNC: &str = "/berth.v1.AgentService/Sync";

/// Roughly how much is written at once in a flood.
const BATCH: usize = 16 * 1024;

/// One frame, as it came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The code of RST_STREAM or GOAWAY.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// A connection after both prefaces were sent.
pub(crate) struct Http2 {
    reader: ReadHalf<Connection>,
    writer: WriteHalf<Connection>,
}

impl Http2 {
    /// Says the preface, with these settings.
    pub(crate) async fn open(connection: Connection, settings: &[(u16, u32)]) -> Self {
        let (reader, mut writer) = split(connection);
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &payload));
        writer.write_all(&bytes).await.unwrap();
        writer.flush().await.unwrap();
        Self { reader, writer }
    }

    /// Sends. A hub that has had enough is noticed where its last words are awaited.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        if self.writer.write_all(bytes).await.is_ok() {
            let _ = self.writer.flush().await;
        }
    }

    /// The next frame; none once the other side has closed.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        read(&mut self.reader).await
    }

    /// The next frame that is wanted, however many come before; none once the other side has closed.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        let looking = async {
            while let Some(frame) = self.next().await {
                if wanted(&frame) {
                    return Some(frame);
                }
            }
            None
        };
        timeout(PATIENCE, looking)
            .await
            .expect("no such frame, and no end")
    }

    /// Sends without end, and reads meanwhile, until the other side has had enough: its GOAWAY, or none where it just closed.
    pub(crate) async fn flood(mut self, mut frames: impl FnMut(u32) -> Vec<u8>) -> Option<Frame> {
        let writing = async {
            let mut number = 0;
            loop {
                let mut batch = Vec::new();
                while batch.len() < BATCH {
                    batch.extend(frames(number));
                    number += 1;
                }
                if self.writer.write_all(&batch).await.is_err() {
                    // What was said before the end is still to be read.
                    std::future::pending::<()>().await;
                }
            }
        };
        let reader = &mut self.reader;
        let reading = async {
            while let Some(frame) = read(reader).await {
                if frame.kind == GOAWAY {
                    return Some(frame);
                }
            }
            None
        };
        let end = async {
            tokio::select! {
                goaway = reading => goaway,
                () = writing => None,
            }
        };
        timeout(PATIENCE, end)
            .await
            .expect("the hub takes the flood")
    }
}

async fn read(reader: &mut ReadHalf<Connection>) -> Option<Frame> {
    let mut head = [0; 9];
    reader.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    reader.read_exact(&mut payload).await.ok()?;
    Some(Frame {
        kind: head[3],
        flags: head[4],
        payload,
    })
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The number of a client's stream.
pub(crate) fn stream(number: u32) -> u32 {
    2 * number + 1
}

/// The header block of a call.
pub(crate) fn call(path: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", path),
        (":authority", "hub"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    fields
        .iter()
        .flat_map(|(name, value)| literal(name, value))
        .collect()
}

/// HPACK: a header field with a name of its own, which no table keeps.
pub(crate) fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        length(&mut out, text.len());
        out.extend(text.as_bytes());
    }
    out
}

/// HPACK: the same, kept in the table, where one byte fetches it again.
pub(crate) fn kept(name: &str, value: &str) -> Vec<u8> {
    let mut out = literal(name, value);
    out[0] = 0x40;
    out
}

/// HPACK's integer with a prefix of seven bits.
fn length(out: &mut Vec<u8>, mut length: usize) {
    if length < 127 {
        out.push(length as u8);
        return;
    }
    out.push(127);
    length -= 127;
    while length >= 128 {
        out.push((length % 128) as u8 | 128);
        length /= 128;
    }
    out.push(length as u8);
}
