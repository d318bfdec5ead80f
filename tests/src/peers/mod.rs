//! Real BGP daemons out of Debian's packages, each a value: configured, started in a network namespace, asked, stopped.
//!
//! Everything a daemon writes lies in a folder of its own, so that many of one kind run beside each other. A [`Peer`]
//! that is dropped takes its processes along; after a crash of ours they are found and ended by their namespace
//! ([`crate::lab::netns::delete`]). `cargo xtask setup` installs the programs.

mod bird;
mod exabgp;
mod frr;
mod gobgp;
mod observed;
mod openbgpd;
mod process;
mod setup;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::{netns, wait};
pub use observed::{Heard, Session};
use process::Processes;
pub use setup::{AddPath, Neighbor, Originated, Remote, Setup};

/// How long a daemon may take to answer after its start, or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A BGP implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Daemon {
    /// BIRD 2.
    Bird2,
    /// BIRD 1.6, one address family per process: the second one is `bird6`.
    Bird1,
    /// FRR: zebra and bgpd.
    Frr,
    /// GoBGP: no routes in the kernel.
    GoBgp,
    /// OpenBGPD, portable: Debian's build puts no routes into the kernel.
    OpenBgpd,
    /// ExaBGP: no table of routes, it says what it is told to say and shows what it hears.
    ExaBgp,
}

impl Daemon {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Bird2, Self::Bird1, Self::Frr, Self::GoBgp, Self::OpenBgpd, Self::ExaBgp];

    /// The name that people use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bird2 => "BIRD 2",
            Self::Bird1 => "BIRD 1.6",
            Self::Frr => "FRR",
            Self::GoBgp => "GoBGP",
            Self::OpenBgpd => "OpenBGPD",
            Self::ExaBgp => "ExaBGP",
        }
    }

    /// One word for files, namespaces and command lines.
    pub fn slug(self) -> &'static str {
        match self {
            Self::Bird2 => "bird2",
            Self::Bird1 => "bird1",
            Self::Frr => "frr",
            Self::GoBgp => "gobgp",
            Self::OpenBgpd => "openbgpd",
            Self::ExaBgp => "exabgp",
        }
    }

    /// The version that the program on this machine tells.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn version(self) -> Result<String> {
        let argv = self.driver().version();
        let output = std::process::Command::new(argv[0]).args(&argv[1..]).output();
        let output = output.with_context(|| format!("{} is not installed: cargo xtask setup", argv[0]))?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut words = text.lines().next().unwrap_or_default().split_whitespace();
        let version = words.rfind(|word| word.starts_with(|first: char| first.is_ascii_digit()));
        version.map(str::to_owned).with_context(|| format!("{} tells no version: {text}", argv[0]))
    }

    /// Whether routes that it learns can go into the kernel of its namespace.
    pub fn has_kernel_routes(self) -> bool {
        matches!(self, Self::Bird2 | Self::Bird1 | Self::Frr)
    }

    fn driver(self) -> &'static dyn Driver {
        match self {
            Self::Bird2 => &bird::BIRD2,
            Self::Bird1 => &bird::BIRD1,
            Self::Frr => &frr::Frr,
            Self::GoBgp => &gobgp::GoBgp,
            Self::OpenBgpd => &openbgpd::OpenBgpd,
            Self::ExaBgp => &exabgp::ExaBgp,
        }
    }
}

/// Where a daemon lives.
#[derive(Clone, Debug)]
struct Place {
    /// Its network namespace, which the caller makes.
    netns: String,
    /// Its folder.
    dir: PathBuf,
    /// Its next start follows on a crash: it may say that it has kept its routes (RFC 4724).
    restarting: bool,
}

impl Place {
    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What a control program of the daemon printed.
    fn ask(&self, argv: &[&str]) -> Result<String> {
        netns::text(&self.netns, argv)
    }

    fn ask_json(&self, argv: &[&str]) -> Result<serde_json::Value> {
        netns::json(&self.netns, argv)
    }
}

/// How to configure, start and ask one kind of daemon.
trait Driver: Sync {
    /// The command that prints the version.
    fn version(&self) -> &'static [&'static str];
    /// Writes the configuration.
    fn configure(&self, place: &Place, setup: &Setup) -> Result<()>;
    /// Starts the processes.
    fn start(&self, place: &Place, setup: &Setup, processes: &mut Processes) -> Result<()>;
    /// Whether it answers; what can only be said to a running daemon is said here.
    fn ready(&self, place: &Place, setup: &Setup) -> Result<bool>;
    /// Lets a running daemon take up a changed configuration, without ending sessions that did not change.
    fn reload(&self, place: &Place, setup: &Setup) -> Result<()>;
    /// The state of one session.
    fn session(&self, place: &Place, neighbor: &Neighbor) -> Result<Session>;
    /// The paths received from one neighbor, both families.
    fn heard(&self, place: &Place, neighbor: &Neighbor) -> Result<Vec<Heard>>;
    /// Asks the neighbor to say everything again.
    fn refresh(&self, place: &Place, neighbor: &Neighbor) -> Result<()>;
    /// Ends a session for good, with a message if the daemon can send one.
    fn shut(&self, place: &Place, neighbor: &Neighbor, message: &str) -> Result<()>;
    /// The word that `ip route` knows its routes by.
    fn kernel_protocol(&self) -> Option<&'static str>;
}

/// A running daemon.
#[derive(Debug)]
pub struct Peer {
    daemon: Daemon,
    setup: Setup,
    place: Place,
    processes: Processes,
}

impl Peer {
    /// Configures and starts a daemon inside the namespace `netns`, with its files in `dir`, and waits until it answers.
    ///
    /// # Errors
    /// When it does not; its log is named.
    pub fn start(daemon: Daemon, netns: &str, dir: &Path, setup: &Setup) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let place = Place { netns: netns.to_owned(), dir: dir.to_owned(), restarting: false };
        let mut peer = Self { daemon, setup: setup.clone(), place, processes: Processes::default() };
        peer.launch()?;
        Ok(peer)
    }

    /// Starts again what was stopped or killed.
    ///
    /// # Errors
    /// As for [`Peer::start`].
    pub fn launch(&mut self) -> Result<()> {
        let driver = self.daemon.driver();
        driver.configure(&self.place, &self.setup)?;
        driver.start(&self.place, &self.setup, &mut self.processes)?;
        wait::until(&format!("{} answers", self.daemon.name()), PATIENCE, || {
            // One that has ended will never answer: the wait ends, and below comes the reason.
            Ok(self.processes.ensure_alive().is_err() || driver.ready(&self.place, &self.setup)?)
        })
        .and_then(|()| self.processes.ensure_alive())
        .with_context(|| format!("its log: {}", self.place.file("log").display()))
    }

    /// Takes up a changed set-up; sessions that did not change go on where the daemon can do so.
    ///
    /// # Errors
    /// When the daemon refuses it.
    pub fn reconfigure(&mut self, setup: &Setup) -> Result<()> {
        self.setup = setup.clone();
        self.daemon.driver().configure(&self.place, setup)?;
        self.daemon.driver().reload(&self.place, setup)
    }

    /// Ends it as an operator would (SIGTERM) and waits for its end.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> Result<()> {
        self.place.restarting = false;
        self.processes.end(nix::sys::signal::Signal::SIGTERM)
    }

    /// Kills it without a word (SIGKILL); its next start says that its routes were kept, where the daemon can.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill(&mut self) -> Result<()> {
        self.place.restarting = true;
        self.processes.end(nix::sys::signal::Signal::SIGKILL)
    }

    /// Which implementation.
    pub fn daemon(&self) -> Daemon {
        self.daemon
    }

    /// The process ids, the one that speaks BGP last.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.pids()
    }

    /// What it was told to be.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Its folder: configuration, log, sockets.
    pub fn dir(&self) -> &Path {
        &self.place.dir
    }

    /// The state of the session with the neighbor of that name.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn session(&self, neighbor: &str) -> Result<Session> {
        self.daemon.driver().session(&self.place, self.neighbor(neighbor)?)
    }

    /// The paths received from that neighbor, both families.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn heard(&self, neighbor: &str) -> Result<Vec<Heard>> {
        self.daemon.driver().heard(&self.place, self.neighbor(neighbor)?)
    }

    /// Asks that neighbor to say everything again (RFC 2918).
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn refresh(&self, neighbor: &str) -> Result<()> {
        self.daemon.driver().refresh(&self.place, self.neighbor(neighbor)?)
    }

    /// Ends the session with that neighbor until the next start, with a message if the daemon can send one (RFC 9003).
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn shut(&self, neighbor: &str, message: &str) -> Result<()> {
        self.daemon.driver().shut(&self.place, self.neighbor(neighbor)?, message)
    }

    /// The prefixes that BGP brought into the kernel of its namespace, sorted.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn kernel_routes(&self) -> Result<Vec<String>> {
        let Some(protocol) = self.daemon.driver().kernel_protocol() else { return Ok(Vec::new()) };
        let mut prefixes = Vec::new();
        for family in ["-4", "-6"] {
            let routes =
                netns::json(&self.place.netns, &["ip", "-j", family, "route", "show", "proto", protocol])?;
            for route in routes.as_array().into_iter().flatten() {
                prefixes.extend(route["dst"].as_str().map(str::to_owned));
            }
        }
        prefixes.sort();
        Ok(prefixes)
    }

    fn neighbor(&self, name: &str) -> Result<&Neighbor> {
        let found = self.setup.neighbors.iter().find(|neighbor| neighbor.name == name);
        found.with_context(|| format!("{} has no neighbor {name}", self.daemon.name()))
    }
}
