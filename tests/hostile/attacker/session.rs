//! A stream of `berth.v1` over a connection of any kind: messages in order, or any bytes in their place.

use berth_wire::v1::{self, agent_message::Body as Say, hub_message::Body as Hear};
use bytes::{Buf as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client::SendRequest};
use http::{HeaderMap, Request};
use prost::Message as _;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::{
    frames::SYNC,
    messages,
    tls::{Connection, PATIENCE},
};

/// More than a hub says to one session.
const WINDOW: u32 = 1 << 30;

/// A connection on which calls can be made.
pub(crate) struct Calls(SendRequest<Bytes>);

impl Calls {
    pub(crate) async fn over(connection: Connection) -> Result<Self, Status> {
        // A window that stays open though nobody reads: what is said waits here, and not in the hub.
        let (calls, driver) = h2::client::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(connection)
            .await
            .map_err(broken)?;
        tokio::spawn(driver);
        Ok(Self(calls.ready().await.map_err(broken)?))
    }

    /// Begins a call, with more headers. Nothing has been answered when this returns.
    pub(crate) async fn call(
        &mut self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Call, Status> {
        let mut request = Request::post(format!("https://hub{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let mut calls = self.0.clone().ready().await.map_err(broken)?;
        let (response, up) = calls.send_request(request, false).map_err(broken)?;
        Ok(Call {
            up,
            response: Some(response),
            down: None,
            unread: BytesMut::new(),
            answers: Vec::new(),
        })
    }
}

/// One call.
pub(crate) struct Call {
    up: SendStream<Bytes>,
    response: Option<h2::client::ResponseFuture>,
    down: Option<RecvStream>,
    unread: BytesMut,
    /// Answers that nobody has asked for yet.
    answers: Vec<v1::Answer>,
}

/// A session, as far as the attacker keeps to the rules.
pub(crate) type Session = Call;

impl Call {
    /// Sends bytes as they are, as fast as the other side takes them. One that has gone is noticed where its end is awaited.
    pub(crate) async fn send(&mut self, bytes: impl Into<Bytes>) {
        let mut bytes = bytes.into();
        while !bytes.is_empty() {
            self.up.reserve_capacity(bytes.len());
            let room = std::future::poll_fn(|cx| self.up.poll_capacity(cx));
            match timeout(PATIENCE, room)
                .await
                .expect("the hub takes no more")
            {
                Some(Ok(room)) => {
                    let part = bytes.split_to(room.min(bytes.len()));
                    if self.up.send_data(part, false).is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    }

    /// Ends this side.
    pub(crate) fn finish(&mut self) {
        let _ = self.up.send_data(Bytes::new(), true);
    }

    /// Whether the other side takes nothing more.
    pub(crate) fn is_over(&mut self) -> bool {
        let mut idle = std::task::Context::from_waker(std::task::Waker::noop());
        self.up.poll_reset(&mut idle).is_ready()
    }

    /// A message of any bytes, in gRPC's framing.
    pub(crate) async fn say_bytes(&mut self, message: &[u8]) {
        self.send(messages::framed(message)).await;
    }

    pub(crate) async fn say(&mut self, body: Say) {
        let message = v1::AgentMessage { body: Some(body) };
        self.say_bytes(&message.encode_to_vec()).await;
    }

    /// The next message, heartbeats left out; the status where the call has ended.
    pub(crate) async fn hear(&mut self) -> Result<Hear, Status> {
        loop {
            match self.next().await? {
                Hear::Heartbeat(_) => {}
                body => return Ok(body),
            }
        }
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> Result<Hear, Status> {
        timeout(PATIENCE, self.read())
            .await
            .expect("the hub says nothing")
    }

    async fn read(&mut self) -> Result<Hear, Status> {
        let message = v1::HubMessage::decode(self.message().await?).unwrap();
        Ok(message.body.unwrap())
    }

    /// The answer to a call that has one.
    pub(crate) async fn reply<M: prost::Message + Default>(&mut self) -> Result<M, Status> {
        let message = timeout(PATIENCE, self.message()).await;
        Ok(M::decode(message.expect("the hub says nothing")?).unwrap())
    }

    async fn message(&mut self) -> Result<Bytes, Status> {
        if let Some(response) = self.response.take() {
            let response = response.await.map_err(broken)?;
            if let Some(status) = Status::from_header_map(response.headers()) {
                return Err(status);
            }
            self.down = Some(response.into_body());
        }
        let down = self.down.as_mut().unwrap();
        loop {
            if let Some(message) = messages::unframed(&mut self.unread) {
                return Ok(message);
            }
            match down.data().await {
                Some(Ok(data)) => {
                    let _ = down.flow_control().release_capacity(data.remaining());
                    self.unread.extend_from_slice(&data);
                }
                Some(Err(error)) => return Err(broken(error)),
                None => {
                    let trailers: HeaderMap =
                        down.trailers().await.map_err(broken)?.unwrap_or_default();
                    let status = Status::from_header_map(&trailers);
                    return Err(status.unwrap_or(Status::unknown("an end without a status")));
                }
            }
        }
    }

    /// How the call ends, whatever is said before.
    pub(crate) async fn ended(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }

    /// Says Hello, for a cluster, and expects Welcome.
    pub(crate) async fn welcomed(&mut self, cluster: &str) -> Result<v1::Welcome, Status> {
        self.say(messages::hello(cluster)).await;
        self.taken().await
    }

    /// The same as another start of an agent.
    pub(crate) async fn welcomed_as(
        &mut self,
        cluster: &str,
        instance: &str,
    ) -> Result<v1::Welcome, Status> {
        let mut hello = messages::hello_of(1, 1, cluster);
        hello.instance_id = instance.into();
        self.say(Say::Hello(hello)).await;
        self.taken().await
    }

    async fn taken(&mut self) -> Result<v1::Welcome, Status> {
        match self.hear().await? {
            Hear::Welcome(welcome) => Ok(welcome),
            other => panic!("no Welcome but {other:?}"),
        }
    }

    /// Tells a whole snapshot, and waits until it was taken in.
    pub(crate) async fn told(&mut self, id: u64, resources: &[v1::Resource]) -> Result<(), Status> {
        for body in messages::snapshot(id, resources) {
            self.say(body).await;
        }
        while !matches!(self.next().await?, Hear::Heartbeat(_)) {}
        Ok(())
    }

    /// The answer to this version of a resource.
    pub(crate) async fn answer(
        &mut self,
        name: &str,
        generation: u64,
    ) -> Result<v1::Answer, Status> {
        let of = |answer: &v1::Answer| {
            answer.generation == generation
                && answer.key.as_ref().is_some_and(|key| key.name == name)
        };
        loop {
            if let Some(at) = self.answers.iter().position(of) {
                return Ok(self.answers.remove(at));
            }
            if let Hear::Answers(answers) = self.hear().await? {
                self.answers.extend(answers.answers);
            }
        }
    }

    /// A session that was welcomed and has told these resources.
    pub(crate) async fn open(
        calls: &mut Calls,
        cluster: &str,
        resources: &[v1::Resource],
    ) -> Result<Self, Status> {
        let mut session = calls.call(SYNC, &[]).await?;
        session.welcomed(cluster).await?;
        session.told(1, resources).await?;
        Ok(session)
    }
}

/// Below gRPC: a reset, a GOAWAY, a lost connection.
fn broken(error: h2::Error) -> Status {
    Status::new(Code::Unknown, format!("no status but {error}"))
}
