//! That the scales are in the transport: a real tonic server and client on loopback, of which each sends the other a message
//! that is small on the wire and large in memory.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

use std::pin::Pin;

use berth_wire::v1::{
    self, agent_message,
    agent_service_client::AgentServiceClient,
    agent_service_server::{AgentService, AgentServiceServer},
    hub_message,
};
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _, wrappers::TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};

/// Well below the limit of a message, and of more elements than are read.
const ELEMENTS: usize = 200_000;

/// Passes on what came of the first message, and sends a bomb back.
struct Server(mpsc::Sender<Result<(), Code>>);

type Messages = Pin<Box<dyn Stream<Item = Result<v1::HubMessage, Status>> + Send>>;

#[tonic::async_trait]
impl AgentService for Server {
    type SyncStream = Messages;

    async fn sync(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Messages>, Status> {
        let heard = request.into_inner().message().await;
        let heard = heard.map(|_| ()).map_err(|status| status.code());
        self.0.send(heard).await.unwrap();
        let answers = vec![v1::Answer::default(); ELEMENTS];
        let body = hub_message::Body::Answers(v1::Answers { answers });
        let bomb = v1::HubMessage { body: Some(body) };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(bomb)))))
    }
}

#[tokio::test]
async fn hostile_31_a_bomb_ends_the_stream_with_resource_exhausted_on_either_side() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, mut heard) = mpsc::channel(4);
    let server = tonic::transport::Server::builder()
        .add_service(AgentServiceServer::new(Server(sender)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let server = tokio::spawn(server);
    let mut client = AgentServiceClient::connect(format!("http://{address}"))
        .await
        .unwrap();

    for (resources, expected) in [(1, Ok(())), (ELEMENTS, Err(Code::ResourceExhausted))] {
        let page = v1::SnapshotPage {
            id: 1,
            resources: vec![v1::Resource::default(); resources],
        };
        let body = agent_message::Body::SnapshotPage(page);
        let message = v1::AgentMessage { body: Some(body) };
        let sent = tokio_stream::once(message).chain(tokio_stream::pending());
        let mut down = client.sync(sent).await.unwrap().into_inner();
        assert_eq!(heard.recv().await, Some(expected));
        let refused = down.message().await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
    }
    server.abort();
}
