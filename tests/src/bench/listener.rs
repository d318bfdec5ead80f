//! Sessions that blast a table at a daemon, or take note of when the daemon has passed all of it on.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::feed::{opening, read_kind};
use super::tally::Tally;

/// Long enough for the slowest daemon to need no KEEPALIVE from us.
pub const HOLD: u16 = 3600;

/// Who connects, and to whom.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The daemon.
    pub target: SocketAddr,
    /// The address to come from.
    pub source: IpAddr,
    /// Our BGP identifier.
    pub id: Ipv4Addr,
    /// Our AS.
    pub asn: u32,
}

impl Caller {
    /// Opens a session for the family of the target, trying for `patience`.
    ///
    /// # Errors
    /// When the daemon takes none.
    pub fn call(&self, patience: Duration) -> Result<TcpStream> {
        let end = Instant::now() + patience;
        loop {
            match self.try_call() {
                Ok(stream) => return Ok(stream),
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn try_call(&self) -> Result<TcpStream> {
        let socket =
            socket2::Socket::new(socket2::Domain::for_address(self.target), socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((self.source, 0)).into())?;
        socket.connect_timeout(&self.target.into(), Duration::from_secs(1))?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.set_nodelay(true)?;
        let afi = if self.target.is_ipv4() { 1 } else { 2 };
        stream.write_all(&opening(self.id, self.asn, HOLD, &[afi]))?;
        for kind in [1, 4] {
            ensure!(read_kind(&mut stream)? == kind, "the session was not accepted");
        }
        stream.set_read_timeout(None)?;
        Ok(stream)
    }
}

/// What a listener waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// So many prefixes announced since the goal was set.
    Announced(u32),
    /// So many prefixes withdrawn since the goal was set.
    Withdrawn(u32),
}

#[derive(Debug)]
struct State {
    tally: Tally,
    goal: Option<Goal>,
    reached: Option<Instant>,
    failed: Option<String>,
}

/// A session that only listens; it ends with the value.
#[derive(Debug)]
pub struct Listener {
    stream: TcpStream,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Listener {
    /// Listens to what the daemon says about the first `routes` prefixes of a table.
    ///
    /// # Errors
    /// When the socket cannot be shared with the reading thread.
    pub fn new(stream: TcpStream, routes: u32) -> Result<Self> {
        let state = State { tally: Tally::new(routes), goal: None, reached: None, failed: None };
        let shared = Arc::new((Mutex::new(state), Condvar::new()));
        let (reader, theirs) = (stream.try_clone()?, Arc::clone(&shared));
        std::thread::spawn(move || listen(reader, &theirs));
        Ok(Self { stream, shared })
    }

    /// Counts from zero towards a new goal.
    pub fn expect(&self, goal: Goal) {
        let mut state = lock(&self.shared.0);
        state.tally.reset();
        state.goal = Some(goal);
        state.reached = None;
    }

    /// When the goal was reached; `None` if it was not within `patience`.
    ///
    /// # Errors
    /// When the session ended.
    pub fn wait(&self, patience: Duration) -> Result<Option<Instant>> {
        let state = lock(&self.shared.0);
        let unfinished = |state: &mut State| state.reached.is_none() && state.failed.is_none();
        let (state, _) = self
            .shared
            .1
            .wait_timeout_while(state, patience, unfinished)
            .unwrap_or_else(PoisonError::into_inner);
        match &state.failed {
            Some(words) if state.reached.is_none() => bail!("the receiving session ended: {words}"),
            _ => Ok(state.reached),
        }
    }

    /// UPDATE messages since the goal was set.
    pub fn updates(&self) -> u32 {
        lock(&self.shared.0).tally.updates()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The reading thread sees the end; if the session is over already, so does it.
        let _over = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(mut stream: TcpStream, shared: &(Mutex<State>, Condvar)) {
    let mut buffer = vec![0; 1 << 18];
    loop {
        let outcome = match stream.read(&mut buffer) {
            Ok(0) => Err("closed by the daemon".to_owned()),
            Ok(count) => take(&shared.0, &buffer[..count]).map_err(|error| format!("{error:#}")),
            Err(error) => Err(error.to_string()),
        };
        match outcome {
            Ok(false) => continue,
            Ok(true) => {}
            Err(words) => lock(&shared.0).failed = Some(words),
        }
        shared.1.notify_all();
        if lock(&shared.0).failed.is_some() {
            return;
        }
    }
}

/// Says whether the goal has just been reached.
fn take(state: &Mutex<State>, bytes: &[u8]) -> Result<bool> {
    let mut state = lock(state);
    state.tally.take(bytes)?;
    let done = match state.goal {
        Some(Goal::Announced(count)) => state.tally.announced() >= count,
        Some(Goal::Withdrawn(count)) => state.tally.withdrawn() >= count,
        None => false,
    };
    if done && state.reached.is_none() {
        state.reached = Some(Instant::now());
        return Ok(true);
    }
    Ok(false)
}

/// Writes `bytes` on a thread of its own, and gives the session back when TCP has taken all of them.
pub fn blast(mut stream: TcpStream, bytes: Vec<u8>) -> std::thread::JoinHandle<Result<TcpStream>> {
    std::thread::spawn(move || {
        stream.write_all(&bytes).context("the feeding session ended")?;
        Ok(stream)
    })
}
