//! A TCP proxy on loopback that the tests break as they like: it cuts after a byte or in the middle of a TLS record, stops
//! reading, swallows one direction while the connection stays, writes byte by byte, or is slow. It knows TCP, and of TLS
//! only how long a record is.

use std::{
    collections::VecDeque,
    io,
    net::{Shutdown, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the agent to the hub.
    Up,
    /// From the hub to the agent.
    Down,
}

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    #[default]
    Pass,
    /// Nothing is read: the sender's buffers fill.
    Stall,
    /// Everything is read and nothing arrives, not even the end of the connection.
    Swallow,
    /// Each byte in a write of its own.
    Single,
    /// Whatever was read waits for this long, and what comes behind it with it.
    Delay(Duration),
}

/// How a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As by a process that ended: both sides see an end of the bytes.
    Fin,
    /// As by a middlebox that forgot the connection: both sides see a reset, what was under way is lost.
    Rst,
}

/// Where a direction is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// After so many bytes.
    Byte(u64),
    /// In the middle of a TLS record, counted from 0.
    Record(u64),
}

/// A cut that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) way: Way,
    pub(crate) at: Place,
    pub(crate) by: End,
}

/// The receive buffer of each of the proxy's sockets: small, so that a stall is soon felt.
const BUFFER: u32 = 64 * 1024;

pub(crate) struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

struct Shared {
    hub: SocketAddr,
    /// For the next connections, in order.
    cuts: Mutex<VecDeque<Cut>>,
    lines: Mutex<Vec<Arc<Line>>>,
    open: AtomicBool,
    /// Of connections to come.
    mode: Mutex<Mode>,
}

/// One connection that came, for its control and to look at.
pub(crate) struct Line {
    pub(crate) since: Instant,
    up: Lane,
    down: Lane,
    order: watch::Sender<Option<End>>,
    over: AtomicBool,
    cut: AtomicBool,
}

struct Lane {
    mode: watch::Sender<Mode>,
    passed: AtomicU64,
    cut: Option<(Place, End)>,
}

impl Proxy {
    pub(crate) async fn start(hub: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // Accepted sockets inherit it.
        socket.set_recv_buffer_size(BUFFER).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(256).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            hub,
            cuts: Mutex::default(),
            lines: Mutex::default(),
            open: AtomicBool::new(true),
            mode: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&shared)));
        Self {
            shared,
            address,
            _tasks: tasks,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts a connection to come: the next one, or the one behind those that have a cut already.
    pub(crate) fn cut_next(&self, cut: Cut) {
        self.shared.cuts.lock().unwrap().push_back(cut);
    }

    /// Cuts every live connection now.
    pub(crate) fn cut_all(&self, by: End) {
        for line in self.lines() {
            line.order.send_replace(Some(by));
        }
    }

    /// Of both directions of every connection to come.
    pub(crate) fn set_default(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
    }

    /// Of every live connection; those to come have the default.
    pub(crate) fn set(&self, way: Way, mode: Mode) {
        for line in self.lines() {
            line.set(way, mode);
        }
    }

    /// Whether connections are taken; if not, they are reset at once. Those that live go on.
    pub(crate) fn set_open(&self, open: bool) {
        self.shared.open.store(open, Ordering::SeqCst);
    }

    /// All connections that were ever taken, the oldest first.
    pub(crate) fn lines(&self) -> Vec<Arc<Line>> {
        self.shared.lines.lock().unwrap().clone()
    }

    /// The newest connection.
    pub(crate) fn line(&self) -> Arc<Line> {
        self.lines().pop().expect("a connection")
    }
}

impl Line {
    fn new(mode: Mode, cut: Option<Cut>) -> Self {
        let lane = |way| Lane {
            mode: watch::Sender::new(mode),
            passed: AtomicU64::new(0),
            cut: cut.filter(|cut| cut.way == way).map(|cut| (cut.at, cut.by)),
        };
        Self {
            since: Instant::now(),
            up: lane(Way::Up),
            down: lane(Way::Down),
            order: watch::Sender::new(None),
            over: AtomicBool::new(false),
            cut: AtomicBool::new(false),
        }
    }

    /// What happens to the bytes of a direction from now on.
    pub(crate) fn set(&self, way: Way, mode: Mode) {
        self.lane(way).mode.send_replace(mode);
    }

    /// How many bytes were passed on.
    pub(crate) fn passed(&self, way: Way) -> u64 {
        self.lane(way).passed.load(Ordering::SeqCst)
    }

    /// Whether the connection has ended, whoever ended it.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Whether it was the [`Cut`] that ended it.
    pub(crate) fn was_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }

    fn lane(&self, way: Way) -> &Lane {
        match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        }
    }

    async fn run(&self, agent: TcpStream, hub: TcpStream) {
        let mut order = self.order.subscribe();
        let pumps = async {
            let both = futures::future::try_join(
                self.pump(&agent, &hub, &self.up),
                self.pump(&hub, &agent, &self.down),
            );
            both.await.err().unwrap_or(End::Fin)
        };
        let how = tokio::select! {
            how = pumps => how,
            Ok(how) = order.wait_for(Option::is_some) => how.unwrap_or(End::Rst),
        };
        match how {
            End::Rst => {
                let _ = (agent.set_zero_linger(), hub.set_zero_linger());
            }
            End::Fin => {
                // Closed with bytes unread, a socket sends a reset instead.
                let ends = futures::future::join(finish(&agent), finish(&hub));
                let _ = timeout(Duration::from_secs(5), ends).await;
            }
        }
        self.over.store(true, Ordering::SeqCst);
    }

    /// Ok: the sender has ended this direction, and the receiver was told.
    async fn pump(&self, from: &TcpStream, to: &TcpStream, lane: &Lane) -> Result<(), End> {
        let mut modes = lane.mode.subscribe();
        let mut blade = Blade::new(lane.cut);
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let mode = *modes.borrow_and_update();
            if mode == Mode::Stall {
                let _ = modes.changed().await;
                continue;
            }
            let count = tokio::select! {
                _ = modes.changed() => continue,
                count = read(from, &mut buffer) => count.map_err(|_| End::Rst)?,
            };
            if count == 0 {
                if mode == Mode::Swallow {
                    let _ = modes.changed().await;
                    continue;
                }
                let _ = SockRef::from(to).shutdown(Shutdown::Write);
                return Ok(());
            }
            let (bytes, cut) = blade.take(&buffer[..count]);
            let written = match mode {
                Mode::Swallow => continue,
                Mode::Pass | Mode::Stall => write(to, bytes).await,
                Mode::Delay(time) => {
                    sleep(time).await;
                    write(to, bytes).await
                }
                Mode::Single => write_singly(to, bytes).await,
            };
            written.map_err(|_| End::Rst)?;
            lane.passed.fetch_add(bytes.len() as u64, Ordering::SeqCst);
            if cut && let Some((_, how)) = lane.cut {
                self.cut.store(true, Ordering::SeqCst);
                return Err(how);
            }
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut lines = JoinSet::new();
    while let Ok((agent, _)) = listener.accept().await {
        if !shared.open.load(Ordering::SeqCst) {
            let _ = agent.set_zero_linger();
            continue;
        }
        let cut = shared.cuts.lock().unwrap().pop_front();
        let mode = *shared.mode.lock().unwrap();
        let line = Arc::new(Line::new(mode, cut));
        shared.lines.lock().unwrap().push(Arc::clone(&line));
        let address = shared.hub;
        lines.spawn(async move {
            match connect(address).await {
                Ok(hub) => {
                    let _ = (agent.set_nodelay(true), hub.set_nodelay(true));
                    line.run(agent, hub).await;
                }
                Err(_) => {
                    let _ = agent.set_zero_linger();
                    line.over.store(true, Ordering::SeqCst);
                }
            }
        });
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(BUFFER)?;
    socket.connect(address).await
}

async fn read(from: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        from.readable().await?;
        match from.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
}

async fn write(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn write_singly(to: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    for byte in bytes {
        write(to, std::slice::from_ref(byte)).await?;
    }
    Ok(())
}

/// Says that nothing more comes, and waits until the other end says so too.
async fn finish(stream: &TcpStream) {
    let _ = SockRef::from(stream).shutdown(Shutdown::Write);
    let mut rest = [0; 4096];
    while read(stream, &mut rest).await.is_ok_and(|count| count > 0) {}
}

/// Finds the place of a cut in the bytes that go by.
struct Blade {
    at: Option<Place>,
    /// How many bytes went by.
    passed: u64,
    /// The header of the record that has begun, as far as it has come.
    header: Vec<u8>,
    /// Of the present record.
    left: u64,
    records: u64,
}

impl Blade {
    fn new(cut: Option<(Place, End)>) -> Self {
        Self {
            at: cut.map(|(at, _)| at),
            passed: 0,
            header: Vec::new(),
            left: 0,
            records: 0,
        }
    }

    /// What of these bytes is passed on, and whether the cut is behind them.
    fn take<'a>(&mut self, bytes: &'a [u8]) -> (&'a [u8], bool) {
        if let Some(Place::Record(wanted)) = self.at {
            self.look_for(wanted, bytes);
        }
        let Some(Place::Byte(at)) = self.at else {
            self.passed += bytes.len() as u64;
            return (bytes, false);
        };
        let room = usize::try_from(at.saturating_sub(self.passed)).unwrap_or(usize::MAX);
        let count = room.min(bytes.len());
        self.passed += count as u64;
        (&bytes[..count], self.passed >= at)
    }

    /// Walks over records; once the wanted one has begun, its middle is the byte to cut after.
    fn look_for(&mut self, wanted: u64, mut bytes: &[u8]) {
        let mut at = self.passed;
        while !bytes.is_empty() {
            if self.left > 0 {
                let count = usize::try_from(self.left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                (self.left, at) = (self.left - count as u64, at + count as u64);
                bytes = &bytes[count..];
                continue;
            }
            self.header.push(bytes[0]);
            (bytes, at) = (&bytes[1..], at + 1);
            if self.header.len() == 5 {
                self.left = u64::from(u16::from_be_bytes([self.header[3], self.header[4]]));
                self.header.clear();
                if self.records == wanted {
                    self.at = Some(Place::Byte(at + self.left / 2));
                    return;
                }
                self.records += 1;
            }
        }
    }
}
