//! The program as tests use it: servers and clients of one machine, over its loopback.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PROGRAM: &str = env!("CARGO_BIN_EXE_manx-toolbox");

/// A server on ports of its own that ends with the test.
struct Server {
    child: Child,
    ports: String,
}

impl Server {
    fn start(options: &[&str]) -> Self {
        let mut serve = Command::new(PROGRAM);
        let mut child = serve.arg("serve").args(options).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut ports = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut ports).expect("a line");
        Self { child, ports }
    }

    fn port(&self, kind: &str) -> String {
        let (_, rest) = self.ports.split_once(&format!("\"{kind}\":")).expect("the port is said");
        rest.chars().take_while(char::is_ascii_digit).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn toolbox(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).output().expect("it runs")
}

fn stdout(args: &[&str]) -> String {
    let output = toolbox(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn terminate(child: &Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    kill(pid, Signal::SIGTERM).expect("signalled");
}

#[test]
fn every_protocol_and_family_tells_both_ends_of_the_conversation() {
    let server = Server::start(&["--tcp", "0", "--udp", "0", "--http", "0"]);
    for (kind, options) in [("tcp", &[][..]), ("udp", &["--udp"]), ("http", &["--http", "/"])] {
        let port = server.port(kind);
        for (address, from) in [("127.0.0.1", "127.0.0.9"), ("::1", "::1")] {
            let answer = stdout(&[&["get", "--from", from], options, &[address, &port]].concat());
            let bracket = |ip: &str| if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
            assert!(answer.contains(&format!("\"client\":\"{}:", bracket(from))), "{kind}: {answer}");
            assert!(
                answer.contains(&format!("\"local\":\"{}:{port}\"", bracket(address))),
                "{kind}: {answer}"
            );
        }
    }
}

#[test]
fn datagrams_are_answered_from_the_address_that_was_asked() {
    let server = Server::start(&["--udp", "0"]);
    let answer = stdout(&["get", "--udp", "127.0.0.77", &server.port("udp")]);
    assert!(answer.contains("\"local\":\"127.0.0.77:"), "{answer}");
}

#[test]
fn health_fails_and_heals_on_demand() {
    let server = Server::start(&["--http", "0"]);
    let port = server.port("http");
    let healthy = || toolbox(&["get", "--http", "/healthz", "::1", &port]);
    assert!(healthy().status.success());
    stdout(&["get", "--http", "/fail", "::1", &port]);
    let failing = healthy();
    assert!(!failing.status.success());
    assert!(String::from_utf8_lossy(&failing.stderr).contains("503"));
    stdout(&["get", "--http", "/heal", "::1", &port]);
    assert!(healthy().status.success());
}

#[test]
fn loads_arrive_whole_both_ways() {
    let server = Server::start(&["--tcp", "0"]);
    for verb in ["send", "receive"] {
        let report = stdout(&[verb, "127.0.0.1", &server.port("tcp"), "3000001"]);
        assert!(report.contains("\"bytes\":3000001,"), "{report}");
    }
}

#[test]
fn nobody_there_and_nobody_answering_are_failures_that_say_so() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let port = silent.local_addr().expect("an address").port().to_string();
    let output = toolbox(&["get", "--udp", "--timeout", "100", "127.0.0.1", &port]);
    assert!(!output.status.success());
    assert!(!output.stderr.is_empty());

    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let output = toolbox(&["get", "127.0.0.1", &closed.to_string()]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("refused"));
}

#[test]
fn a_flow_without_loss_says_so_when_it_is_ended() {
    let server = Server::start(&["--tcp", "0", "--udp", "0"]);
    for (kind, options) in [("tcp", &[][..]), ("udp", &["--udp"])] {
        let port = server.port(kind);
        let words = [&["flow", "--every", "1"], options, &["127.0.0.1", &port]].concat();
        let flow = Command::new(PROGRAM).args(words).stdout(Stdio::piped()).spawn().expect("it starts");
        // Another conversation of some length meanwhile, so that the flow has had its turn.
        stdout(&["receive", "127.0.0.1", &server.port("tcp"), "100000000"]);
        terminate(&flow);
        let output = flow.wait_with_output().expect("it ends");
        assert!(output.status.success());
        let summary = String::from_utf8(output.stdout).expect("text");
        assert!(summary.contains("\"lost\":0,\"reconnects\":0,"), "{kind}: {summary}");
        assert!(!summary.contains("\"pods\":[]"), "{kind}: {summary}");
    }
}

#[test]
fn a_flow_tells_each_loss_and_goes_on_with_a_new_connection() {
    let mut server = Server::start(&["--tcp", "0"]);
    let port = server.port("tcp");
    let mut flow = Command::new(PROGRAM)
        .args(["flow", "--every", "1", "--timeout", "200", "127.0.0.1", &port])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    stdout(&["receive", "127.0.0.1", &port, "100000000"]);
    server.child.kill().expect("killed");
    server.child.wait().expect("it ends");
    let mut lines = BufReader::new(flow.stdout.take().expect("a pipe"));
    let mut loss = String::new();
    lines.read_line(&mut loss).expect("a line");
    assert!(loss.contains(" lost "), "{loss}");

    let _again = Server::start(&["--tcp", &port]);
    stdout(&["receive", "127.0.0.1", &port, "100000000"]);
    terminate(&flow);
    let mut rest = String::new();
    lines.read_to_string(&mut rest).expect("the rest");
    assert!(flow.wait().expect("it ends").success());
    let summary = rest.lines().last().expect("a summary");
    assert!(!summary.contains("\"reconnects\":0,") && !summary.contains("\"lost\":0,"), "{summary}");
}

#[test]
fn under_the_name_of_pause_it_waits_for_its_end() {
    let mut pause = Command::new(PROGRAM).arg0("/pause").spawn().expect("it starts");
    assert!(pause.try_wait().expect("a look").is_none());
    terminate(&pause);
    // Either before it blocks the signal or after: both end it.
    pause.wait().expect("it ends");
}
