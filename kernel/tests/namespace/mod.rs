//! Runs tests in network namespaces of their own.

#![expect(dead_code, reason = "each test binary uses its own part of this module")]

use std::process::Command;
use std::time::{Duration, Instant};

use manx_kernel::fib::{Config, Fib, FibEvent, Input};
use manx_kernel::model::{Route, RouteKey};
use manx_kernel::netlink::Kernel;
use nix::sched::{CloneFlags, unshare};

/// Runs `test` on a thread in a new network namespace. Without the right to make one it says so, and in CI fails.
#[expect(clippy::disallowed_methods, reason = "a namespace belongs to a thread")]
pub(crate) fn run(test: impl FnOnce() + Send + 'static) {
    let outcome = std::thread::spawn(|| {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            assert!(std::env::var_os("CI").is_none(), "no namespaces: {error}");
            println!("ignored: no namespaces");
            return;
        }
        test();
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` (iproute2) with these arguments and returns what it prints.
pub(crate) fn ip(arguments: &str) -> String {
    command("ip", arguments)
}

/// Runs a program with these arguments, separated by blanks, and returns what it prints.
pub(crate) fn command(program: &str, arguments: &str) -> String {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What nft (the program) says to these arguments; where it is not installed, what it would say is not tested.
pub(crate) fn nft(arguments: &str) -> Option<String> {
    if Command::new("nft").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "nft is not installed");
        println!("ignored: nft is not installed");
        return None;
    }
    Some(command("nft", arguments))
}

/// Two uplinks with addresses of both families, and the other ends of their cables.
pub(crate) fn two_uplinks() {
    ip("link set lo up");
    for (name, number) in [("up1", 1), ("up2", 2)] {
        ip(&format!("link add {name} type veth peer name {name}-peer"));
        ip(&format!("addr add 192.0.{number}.1/24 dev {name}"));
        ip(&format!("addr add 2001:db8:{number}::1/64 dev {name} nodad"));
        ip(&format!("link set {name}-peer up"));
        ip(&format!("link set {name} up"));
    }
}

/// What a packet to `address` does, in the words of iproute2.
pub(crate) fn way(address: &str) -> String {
    ip(&format!("route get {address}"))
}

/// A route machine and the kernel of the current namespace.
pub(crate) struct Node {
    pub(crate) fib: Fib,
    pub(crate) kernel: Kernel,
    pub(crate) events: Vec<FibEvent>,
    pub(crate) now: Instant,
}

impl Node {
    pub(crate) fn new(config: Config) -> Self {
        let now = now();
        let kernel = Kernel::open().expect("a socket");
        let mut node = Self { fib: Fib::new(config, now), kernel, events: Vec::new(), now };
        node.settle();
        node
    }

    pub(crate) fn feed(&mut self, input: Input) {
        self.fib.handle(input, self.now);
    }

    pub(crate) fn want(&mut self, routes: impl IntoIterator<Item = (RouteKey, Route)>) {
        self.feed(Input::SetRoutes(routes.into_iter().collect()));
        self.settle();
    }

    /// Does what the machine asks, and lets a second pass on its clock.
    pub(crate) fn settle(&mut self) {
        self.drain();
        let end = self.now + Duration::from_secs(1);
        while let Some(at) = self.fib.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.feed(Input::Timeout);
            self.drain();
        }
        self.now = end;
        self.feed(Input::Timeout);
        self.drain();
    }

    fn drain(&mut self) {
        let (events, failure) = self.kernel.carry_out(&mut self.fib, self.now);
        assert_eq!(failure, None);
        self.events.extend(events);
    }
}

#[expect(clippy::disallowed_methods, reason = "a test may begin now")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn key(dst: &str) -> RouteKey {
    RouteKey::main(dst.parse().expect("a network"), 0)
}

pub(crate) fn via(next_hops: &[&str]) -> Route {
    Route::via(next_hops.iter().map(|address| address.parse::<std::net::IpAddr>().expect("an address")))
}

/// Another network namespace, kept by a thread that carries out what it is given.
pub(crate) struct Elsewhere {
    /// A path that names the namespace.
    pub(crate) path: String,
    work: std::sync::mpsc::SyncSender<Box<dyn FnOnce() + Send>>,
}

impl Elsewhere {
    #[expect(clippy::disallowed_methods, reason = "a namespace belongs to a thread")]
    pub(crate) fn new() -> Self {
        let (work, queue) = std::sync::mpsc::sync_channel::<Box<dyn FnOnce() + Send>>(0);
        let (path_sender, path) = std::sync::mpsc::sync_channel(0);
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a second namespace after the first");
            let path = format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
            path_sender.send(path).expect("somebody waits for the path");
            queue.iter().for_each(|work| work());
        });
        Self { path: path.recv().expect("the thread tells its path"), work }
    }

    /// Carries out `work` there and returns what it returns.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, result) = std::sync::mpsc::sync_channel(1);
        let work = move || drop(sender.send(work()));
        self.work.send(Box::new(work)).expect("the thread takes work");
        result.recv().expect("the work did not panic")
    }
}
