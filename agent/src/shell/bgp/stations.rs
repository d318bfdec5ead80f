//! The BMP stations (RFC 7854): each that is configured is dialled until it answers, and again once it is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use manx_bgp::ConnId;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::socket;
use crate::node::intent::Transport;
use crate::shell::kube::jitter;

/// The first pause before a station is dialled again; it doubles from there.
const PAUSE: Duration = Duration::from_secs(5);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A station that answered.
pub(super) type Answered = (SocketAddr, TcpStream);

/// All stations of a speaker.
#[derive(Debug)]
pub(super) struct Stations {
    all: BTreeMap<SocketAddr, Station>,
    answers: mpsc::Sender<Answered>,
}

#[derive(Debug)]
struct Station {
    state: State,
    /// The pause before the next attempt.
    pause: Duration,
}

#[derive(Debug)]
enum State {
    /// A task tries until it is answered; it ends when this is dropped.
    Dialling {
        _task: DropGuard,
    },
    Connected {
        conn: ConnId,
        since: Instant,
    },
}

impl Stations {
    /// None yet. Connections go to `answers`.
    pub(super) fn new(answers: mpsc::Sender<Answered>) -> Self {
        Self { all: BTreeMap::new(), answers }
    }

    /// Dials these stations and no others; gives the connections of those that are no longer wanted.
    pub(super) fn set(&mut self, wanted: &BTreeSet<SocketAddr>) -> Vec<ConnId> {
        let gone = self.all.iter().filter(|(address, _)| !wanted.contains(*address));
        let gone = gone.filter_map(|(_, station)| station.conn()).collect();
        self.all.retain(|address, _| wanted.contains(address));
        for address in wanted {
            self.all.entry(*address).or_insert_with(|| Station {
                state: dialling(*address, Duration::ZERO, self.answers.clone()),
                pause: PAUSE,
            });
        }
        gone
    }

    /// Takes a connection for a station; false when it is not wanted any more.
    pub(super) fn connected(&mut self, address: SocketAddr, conn: ConnId) -> bool {
        let Some(station) = self.all.get_mut(&address) else { return false };
        let wanted = station.conn().is_none();
        if wanted {
            station.state = State::Connected { conn, since: Instant::now() };
            tracing::info!(%address, "a BMP station is told of the sessions");
        }
        wanted
    }

    /// A connection is gone: if it was a station's, that is dialled again.
    pub(super) fn closed(&mut self, conn: ConnId) {
        let found = self.all.iter_mut().find(|(_, station)| station.conn() == Some(conn));
        let Some((address, station)) = found else { return };
        let State::Connected { since, .. } = station.state else { return };
        let lasted = since.elapsed() >= LONGEST_PAUSE;
        station.pause = if lasted { PAUSE } else { (station.pause * 2).min(LONGEST_PAUSE) };
        tracing::warn!(%address, "the connection to a BMP station is gone and is made anew");
        station.state = dialling(*address, jittered(station.pause), self.answers.clone());
    }

    /// How many are connected.
    pub(super) fn count_connected(&self) -> usize {
        self.all.values().filter(|station| station.conn().is_some()).count()
    }
}

impl Station {
    fn conn(&self) -> Option<ConnId> {
        match self.state {
            State::Connected { conn, .. } => Some(conn),
            State::Dialling { .. } => None,
        }
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.75 + jitter("station") / 2.0)
}

fn dialling(address: SocketAddr, first: Duration, answers: mpsc::Sender<Answered>) -> State {
    let stop = CancellationToken::new();
    let task = stop.clone().drop_guard();
    tokio::spawn(async move { stop.run_until_cancelled(dial(address, first, answers)).await });
    State::Dialling { _task: task }
}

/// Dials until somebody answers; only the first failure is a line in the log.
async fn dial(address: SocketAddr, first: Duration, answers: mpsc::Sender<Answered>) {
    tokio::time::sleep(first).await;
    let mut pause = PAUSE;
    let mut told = false;
    loop {
        match socket::dial(address, None, &Transport::default()).await {
            Ok(stream) => {
                let _gone = answers.send((address, stream)).await;
                return;
            }
            Err(error) if !std::mem::replace(&mut told, true) => {
                tracing::warn!(%address, %error, "a BMP station does not answer and is dialled again");
            }
            Err(error) => tracing::debug!(%address, %error, "a BMP station does not answer"),
        }
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_station_is_dialled_once_and_given_up_when_it_is_no_longer_wanted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (answers_in, mut answers) = mpsc::channel(4);
        let mut stations = Stations::new(answers_in);
        assert!(stations.set(&BTreeSet::from([address])).is_empty());
        assert!(stations.set(&BTreeSet::from([address])).is_empty());
        let (from, _stream) = answers.recv().await.expect("a connection");
        assert!(stations.connected(from, ConnId(7)));
        assert!(!stations.connected(from, ConnId(8)), "there is one already");
        assert_eq!(stations.count_connected(), 1);
        assert_eq!(stations.set(&BTreeSet::new()), [ConnId(7)]);
        assert!(!stations.connected(from, ConnId(9)), "nobody wants it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_station_that_hangs_up_is_dialled_again_after_a_growing_pause() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (answers_in, mut answers) = mpsc::channel(4);
        let mut stations = Stations::new(answers_in);
        stations.set(&BTreeSet::from([address]));
        let mut last = tokio::time::Instant::now();
        for (number, (least, most)) in
            [(0, 1), (7, 13), (15, 25), (30, 50), (45, 75), (45, 75)].iter().enumerate()
        {
            let (from, _stream) = answers.recv().await.expect("a connection");
            let waited = last.elapsed().as_secs();
            assert!((*least..=*most).contains(&waited), "attempt {number} after {waited} s");
            last = tokio::time::Instant::now();
            let conn = ConnId(number as u64);
            assert!(stations.connected(from, conn));
            stations.closed(conn);
        }
    }
}
