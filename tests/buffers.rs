//! What a stream keeps of a large message once a small one has followed: nothing. A hub has thousands of streams, and each begins
//! with messages that are large beside all others.

use berth_wire::{codec::Weighed, slim, v1};
use peak_alloc::PeakAlloc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    body::Body,
    codec::{Codec as _, EncodeBody},
};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const LARGE: usize = 1024 * 1024;

fn hello(bytes: usize) -> v1::AgentMessage {
    let hello = v1::Hello {
        digests: vec![1; bytes].into(),
        ..v1::Hello::default()
    };
    v1::AgentMessage {
        body: Some(v1::agent_message::Body::Hello(hello)),
    }
}

#[tokio::test]
async fn neither_side_keeps_the_room_of_a_large_message() {
    let mut codec = Weighed::<v1::AgentMessage, v1::AgentMessage>::default();
    let (sender, messages) = mpsc::channel::<Result<v1::AgentMessage, Status>>(1);
    let messages = ReceiverStream::new(messages);
    let sent = EncodeBody::new_server(codec.encoder(), messages, None, Default::default(), None);
    let mut received = Streaming::new_request(
        codec.decoder(),
        slim::received(slim::sent(Body::new(sent))),
        None,
        None,
    );
    let before = MEMORY.current_usage();
    for bytes in [10, LARGE, 10] {
        sender.send(Ok(hello(bytes))).await.unwrap();
        let message = received.message().await.unwrap().unwrap();
        assert_eq!(message, hello(bytes));
        let kept = MEMORY.current_usage().saturating_sub(before);
        assert_eq!(kept >= LARGE, bytes == LARGE, "{kept} bytes after {bytes}");
    }
}
