//! `manx-cni`, the program that a container runtime calls for every pod that starts or stops.
//!
//! Environment and standard input are read and checked whole ([`manx_cni::spec`]) before anything is changed; then one
//! verb runs, each in a module of its own, and its result or error goes to standard output as JSON. Every wait has an
//! end: on standard input, on the agent, on the kernel.
//!
//! | verb | what it does | while the agent is away |
//! |---|---|---|
//! | ADD | gets addresses from the agent, makes the link | error 11, nothing is changed |
//! | DEL | the agent frees the addresses and removes the link | removes the link, leaves a tombstone, succeeds |
//! | CHECK | compares kernel, agent and the result of ADD | error 11 |
//! | GC | the agent forgets what the runtime does not know; stray links go | error 11 |
//! | STATUS | asks the agent | error 50 |
//! | VERSION | lists the versions of the specification | works |
//!
//! Chained plugins, second interfaces and every error with its cure: docs/cni.md. There is no `ipam` section: addresses
//! come from the cluster's pools.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use manx_cni::spec::{CONFIG_MAX, Call, Code, Error, NetConf, Verb, Version, version_answer};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;

mod add;
mod agent;
mod check;
mod del;
mod gc;
mod status;

/// When the system ends this process, whatever it is waiting for: all waits that are foreseen are over by then.
const LIFETIME_SECONDS: u32 = 90;
/// The system did not give what the runtime wrote.
const UNREADABLE: &str = "standard input cannot be read";
/// How long the runtime may take to write the whole configuration.
const STDIN_TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    nix::unistd::alarm::set(LIFETIME_SECONDS);
    let (version, outcome) = run();
    let failed = outcome.is_err();
    let answer = outcome.unwrap_or_else(|error| Some(error.to_json(version)));
    let written = answer.map_or(Ok(()), |answer| {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{answer}").and_then(|()| stdout.flush())
    });
    if failed || written.is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Does what the runtime wants; returns what to print, and the version in which an error is to be printed.
fn run() -> (Version, Result<Option<Value>, Error>) {
    let call = match Call::parse(|name| std::env::var_os(name)) {
        Ok(call) => call,
        Err(error) => return (Version::NEWEST, Err(error)),
    };
    let stdin = match read_stdin() {
        Ok(stdin) => stdin,
        // A pod must be able to stop whatever its runtime writes. What could not be read may be right: DEL is repeated.
        Err(error) if call.verb() == Verb::Del && error.msg != UNREADABLE => Vec::new(),
        Err(error) => return (Version::NEWEST, Err(error)),
    };
    if call == Call::Version {
        return (Version::NEWEST, Ok(Some(version_answer(&stdin))));
    }
    match NetConf::parse(call.verb(), &stdin) {
        Ok(config) => (config.version, carry_out(&call, &config)),
        Err(error) => (Version::NEWEST, Err(error)),
    }
}

fn carry_out(call: &Call, config: &NetConf) -> Result<Option<Value>, Error> {
    match call {
        Call::Add(target) => {
            let result = add::add(target, config)?;
            return Ok(Some(result.to_json(config.version)));
        }
        Call::Check(target) => check::check(target, config)?,
        Call::Del(target) => del::del(target, config)?,
        Call::Gc => gc::gc(config)?,
        Call::Status => status::status(config)?,
        Call::DelNothing | Call::Version => {}
    }
    Ok(None)
}

/// All of standard input, which is a terminal only when somebody is curious.
fn read_stdin() -> Result<Vec<u8>, Error> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Ok(Vec::new());
    }
    let failed = |what: &str| Error::new(Code::IO, format!("standard input {what}"));
    let deadline = Instant::now() + STDIN_TIMEOUT;
    let mut lock = stdin.lock();
    let mut bytes = Vec::with_capacity(4096);
    let mut chunk = [0; 16 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(failed("did not end within 5 s")),
            Err(nix::Error::EINTR) => continue,
            _ => {}
        }
        match lock.read(&mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::new(Code::IO, UNREADABLE).details(error.to_string())),
        }
        if bytes.len() > CONFIG_MAX {
            return Err(failed("is longer than 4 MiB"));
        }
    }
}
