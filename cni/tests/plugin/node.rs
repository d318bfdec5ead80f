//! A node, its pods and its agent, for the tests.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use manx_cni::rpc::{Assignment, Attachment, Remover, Reply, Request, RpcError, decode, encode, socket_path};
use manx_kernel::netlink::links;
use manx_kernel::netlink::socket::Socket;
use manx_kernel::netns::NetNs;
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

/// The node's own addresses.
pub(crate) const NODE_V4: &str = "192.0.2.1";
pub(crate) const NODE_V6: &str = "2001:db8::1";

/// A network namespace that lives as long as this value.
pub(crate) struct Space(Arc<NetNs>);

impl Space {
    fn new() -> Option<Self> {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).ok()?;
            NetNs::open(Path::new("/proc/thread-self/ns/net")).ok()
        });
        let made = made.join().expect("the thread does not panic");
        if made.is_none() {
            assert!(std::env::var_os("CI").is_none(), "no namespaces can be made, and CI is set");
            println!("ignored: no namespaces");
        }
        made.map(|space| Self(Arc::new(space)))
    }

    /// A path that leads to the namespace while this value lives, for other processes too.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_fd().as_raw_fd())
    }

    /// The same namespace once more.
    pub(crate) fn share(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    /// Calls a function inside.
    pub(crate) fn within<T>(&self, inside: impl FnOnce() -> T) -> T {
        self.0.within(inside).expect("a namespace that is open can be entered")
    }

    /// Runs a command inside; its output if it succeeds.
    pub(crate) fn try_run(&self, command: &str) -> Result<String, String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        let output = self.within(|| Command::new(words[0]).args(&words[1..]).output());
        let output = output.map_err(|error| format!("{command}: {error}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Runs a command inside, which has to succeed.
    pub(crate) fn run(&self, command: &str) -> String {
        self.try_run(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// What `ip -j` says.
    pub(crate) fn ip(&self, arguments: &str) -> Vec<Value> {
        let output = self.run(&format!("ip -j -d {arguments}"));
        if output.trim().is_empty() {
            Vec::new()
        } else {
            serde_json::from_str(&output).expect("ip -j gives JSON")
        }
    }

    /// The link of this name, if there is one.
    pub(crate) fn link(&self, name: &str) -> Option<Value> {
        self.ip("link").into_iter().find(|link| link["ifname"] == name)
    }

    /// The routes of the main table without those that the kernel makes, as `ip` prints them.
    pub(crate) fn routes(&self, family: &str) -> Vec<String> {
        let routes = self.run(&format!("ip {family} route show table main"));
        let lines = routes.lines().map(|line| line.trim_end().to_owned());
        lines.filter(|line| !line.contains("proto kernel")).collect()
    }

    /// The neighbours of a link, as `ip` prints them, in order.
    pub(crate) fn neighbours(&self, link: &str) -> Vec<String> {
        let text = self.run(&format!("ip neigh show dev {link} nud all"));
        let mut lines: Vec<String> = text
            .lines()
            .map(|line| line.trim_end().to_owned())
            .filter(|line| !line.contains("NOARP"))
            .collect();
        lines.sort();
        lines
    }

    /// Waits until a link has carrier and all its addresses are in use, which the kernel sees to after it answered.
    pub(crate) fn await_settled(&self, name: &str) {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let link = self.link(name).unwrap_or_default();
            let addresses = self.run(&format!("ip address show dev {name}"));
            if link["operstate"] == "UP" && !addresses.contains("tentative") {
                return;
            }
            assert!(Instant::now() < deadline, "{name} does not settle: {link} {addresses}");
        }
    }

    /// A setting as this namespace has it.
    pub(crate) fn sysctl(&self, key: &str) -> String {
        self.within(|| manx_kernel::sysctl::read(key)).unwrap_or_else(|error| error.to_string())
    }

    /// Everything that `ip` shows of links, addresses, routes and neighbours: to see that nothing has changed.
    pub(crate) fn photograph(&self) -> String {
        let commands =
            ["ip -d link", "ip address", "ip route show table all", "ip -6 route show table all", "ip neigh"];
        let shots: Vec<String> = commands.iter().map(|command| self.run(command)).collect();
        // What the kernel does in its own time: link-local addresses, reception of IPv6, carrier, lifetimes.
        let busy = ["fe80::/64", "inet6 fe80::", "table local proto kernel", "expires", "valid_lft"];
        let steady = shots.concat().replace(" state UNKNOWN", " state UP");
        steady
            .lines()
            .filter(|line| !busy.iter().any(|word| line.contains(word)))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

impl Space {
    /// Every setting of the links and neighbour tables, all and by default included.
    pub(crate) fn settings(&self) -> BTreeMap<String, String> {
        let folders = ["net/ipv4/conf", "net/ipv4/neigh", "net/ipv6/conf", "net/ipv6/neigh"];
        let mut settings = BTreeMap::new();
        self.within(|| {
            for links in
                folders.iter().filter_map(|folder| std::fs::read_dir(format!("/proc/sys/{folder}")).ok())
            {
                for link in links.flatten() {
                    let files = std::fs::read_dir(link.path()).into_iter().flatten().flatten();
                    settings.extend(files.filter_map(|file| {
                        let value = std::fs::read_to_string(file.path()).ok()?;
                        Some((file.path().display().to_string(), value))
                    }));
                }
            }
        });
        assert!(settings.len() > 100, "{settings:?}");
        settings
    }
}

/// A pod sandbox: a namespace with its loopback up, and what the runtime calls it.
pub(crate) struct Sandbox {
    pub(crate) space: Space,
    pub(crate) container: String,
    pub(crate) pod: Option<(String, String)>,
    pub(crate) ifname: String,
}

impl Sandbox {
    pub(crate) fn eth0(&self) -> Option<Value> {
        self.space.link(&self.ifname)
    }

    pub(crate) fn attachment(&self) -> Attachment {
        Attachment { container: self.container.clone(), ifname: self.ifname.clone() }
    }
}

/// What a call of the plugin gave.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) succeeded: bool,
    pub(crate) json: Value,
    pub(crate) stderr: String,
}

impl Answer {
    pub(crate) fn of(output: Output) -> Self {
        let text = String::from_utf8(output.stdout).expect("the plugin prints UTF-8");
        let json = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).expect("the plugin prints JSON")
        };
        Self {
            succeeded: output.status.success(),
            json,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The result of a call that has to succeed.
    pub(crate) fn ok(self) -> Value {
        assert!(self.succeeded, "the plugin failed: {self:?}");
        self.json
    }

    /// Code and text of a call that has to fail.
    pub(crate) fn failed(self) -> (u64, String) {
        assert!(!self.succeeded, "the plugin succeeded: {self:?}");
        let text = |key: &str| self.json[key].as_str().unwrap_or_default().to_owned();
        (
            self.json["code"].as_u64().expect("an error has a code"),
            format!("{}: {}", text("msg"), text("details")),
        )
    }
}

/// A node: a namespace with addresses of its own, a run directory, and an agent if one was started.
pub(crate) struct Node {
    pub(crate) space: Space,
    pub(crate) run_dir: PathBuf,
    _directory: tempfile::TempDir,
}

impl Node {
    /// A node, or nothing (said aloud) where no namespaces can be made.
    pub(crate) fn new() -> Option<Self> {
        let space = Space::new()?;
        space.run("ip link set lo up");
        space.run(&format!("ip address add {NODE_V4}/32 dev lo"));
        space.run(&format!("ip address add {NODE_V6}/128 dev lo nodad"));
        space.within(|| {
            manx_kernel::sysctl::write("net/ipv4/ip_forward", "1").expect("forwarding");
            manx_kernel::sysctl::write("net/ipv6/conf/all/forwarding", "1").expect("forwarding");
        });
        let deadline = Instant::now() + Duration::from_secs(5);
        while !space.run("ip -6 route show table local").contains(NODE_V6) {
            assert!(Instant::now() < deadline, "the kernel does not receive for {NODE_V6}");
        }
        let directory = tempfile::tempdir().expect("a run directory");
        Some(Self { space, run_dir: directory.path().to_owned(), _directory: directory })
    }

    /// A sandbox for the pod `shop/cart-0`, not yet attached.
    pub(crate) fn sandbox(&self, container: &str) -> Sandbox {
        self.sandbox_of(container, Some(("shop", "cart-0")))
    }

    pub(crate) fn sandbox_of(&self, container: &str, pod: Option<(&str, &str)>) -> Sandbox {
        let space = Space::new().expect("the node's namespace could be made");
        space.run("ip link set lo up");
        let pod = pod.map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
        Sandbox { space, container: container.into(), pod, ifname: "eth0".into() }
    }

    /// The network configuration that the tests use, with some fields replaced.
    pub(crate) fn config(&self, changes: Value) -> Value {
        let mut config =
            json!({ "cniVersion": "1.1.0", "name": "manx", "type": "manx-cni", "runDir": self.run_dir });
        let (Some(fields), Value::Object(changes)) = (config.as_object_mut(), changes) else {
            panic!("no objects")
        };
        fields.extend(changes);
        config
    }

    /// Calls the plugin for a sandbox.
    pub(crate) fn call(&self, verb: &str, sandbox: &Sandbox) -> Answer {
        self.call_with(verb, sandbox, json!({}))
    }

    /// Calls the plugin for a sandbox, with some fields of the configuration replaced.
    pub(crate) fn call_with(&self, verb: &str, sandbox: &Sandbox, changes: Value) -> Answer {
        let mut variables = variables(verb, sandbox);
        variables.insert("CNI_PATH", "/opt/cni/bin".into());
        self.exec(env!("CARGO_BIN_EXE_manx-cni"), &variables, &self.config(changes).to_string())
    }

    /// Runs a program on the node with only these variables and this input.
    pub(crate) fn exec(&self, program: &str, variables: &BTreeMap<&str, String>, stdin: &str) -> Answer {
        self.spawn(program, &[], variables, stdin)
    }

    /// Runs a program with arguments on the node, with only these variables and this input.
    pub(crate) fn spawn(
        &self,
        program: &str,
        arguments: &[&str],
        variables: &BTreeMap<&str, String>,
        stdin: &str,
    ) -> Answer {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(variables.iter().map(|(name, value)| (name, OsStr::new(value))));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.space.within(|| command.spawn()).expect("the plugin starts");
        let mut input = child.stdin.take().expect("standard input is a pipe");
        // A program that fails at once may never read.
        let _ = input.write_all(stdin.as_bytes());
        drop(input);
        Answer::of(child.wait_with_output().expect("the plugin ends"))
    }

    /// The one link of a pod on the node.
    pub(crate) fn pod_link(&self) -> Option<Value> {
        let links = self.space.ip("link");
        links.into_iter().find(|link| link["ifname"].as_str().is_some_and(|name| name.starts_with("cali")))
    }
}

/// The environment of a call.
pub(crate) fn variables(verb: &str, sandbox: &Sandbox) -> BTreeMap<&'static str, String> {
    let mut variables = BTreeMap::from([
        ("CNI_COMMAND", verb.to_owned()),
        ("CNI_CONTAINERID", sandbox.container.clone()),
        ("CNI_NETNS", sandbox.space.path()),
        ("CNI_IFNAME", sandbox.ifname.clone()),
    ]);
    if let Some((namespace, name)) = &sandbox.pod {
        let args =
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID=u-1");
        variables.insert("CNI_ARGS", args);
    }
    variables
}

/// How the stand-in behaves.
#[derive(Clone)]
pub(crate) enum Mood {
    /// As an agent should.
    Well,
    /// It takes connections and never answers.
    Silent,
    /// It takes the request and answers with half a line.
    Halting,
    /// It takes the request and answers with one blank after the other.
    Dripping,
    /// It takes the request and answers with more than any line may have.
    Babbling,
    /// It closes connections without an answer.
    Curt,
    /// It refuses everything.
    Refusing(RpcError),
    /// It frees addresses and leaves the links to the plugin.
    HandsOff,
    /// It answers with something else than was asked for.
    Confused,
}

/// A stand-in for the agent: its address management is a table that the test gives it.
pub(crate) struct Agent {
    state: Arc<State>,
    run_dir: PathBuf,
    thread: Option<JoinHandle<()>>,
}

struct State {
    table: Vec<Vec<IpAddr>>,
    mtu: u32,
    mood: Mutex<Mood>,
    stopping: AtomicBool,
    known: Mutex<BTreeMap<Attachment, Assignment>>,
    seen: Mutex<Vec<Request>>,
    node: Arc<NetNs>,
    mac: Mutex<Option<String>>,
}

impl Agent {
    /// Starts one that gives the n-th container the n-th addresses of the table.
    pub(crate) fn start(node: &Node, table: &[&[&str]]) -> Self {
        Self::start_with(node, table, 1500, Mood::Well)
    }

    pub(crate) fn start_with(node: &Node, table: &[&[&str]], mtu: u32, mood: Mood) -> Self {
        let parse = |text: &&str| text.parse().expect("an address");
        let state = Arc::new(State {
            table: table.iter().map(|row| row.iter().map(parse).collect()).collect(),
            mtu,
            mood: Mutex::new(mood),
            stopping: AtomicBool::new(false),
            known: Mutex::default(),
            seen: Mutex::default(),
            node: Arc::clone(&node.space.0),
            mac: Mutex::default(),
        });
        let listener = UnixListener::bind(socket_path(&node.run_dir)).expect("the socket is free");
        let serving = Arc::clone(&state);
        let thread = std::thread::spawn(move || serving.serve(&listener));
        Self { state, run_dir: node.run_dir.clone(), thread: Some(thread) }
    }

    /// Changes its behaviour.
    pub(crate) fn be(&self, mood: Mood) {
        *self.state.mood.lock().expect("no panic") = mood;
    }

    /// Decides which hardware address the next pods get, whatever they ask for.
    pub(crate) fn decide_mac(&self, mac: Option<&str>) {
        *self.state.mac.lock().expect("no panic") = mac.map(str::to_owned);
    }

    /// Tells of another MTU from now on, also of the pods that are there.
    pub(crate) fn tell_mtu(&self, mtu: u32) {
        let mut known = self.state.known.lock().expect("no panic");
        known.values_mut().for_each(|assignment| assignment.mtu = mtu);
    }

    /// What it has on record.
    pub(crate) fn known(&self) -> BTreeMap<Attachment, Assignment> {
        self.state.known.lock().expect("no panic").clone()
    }

    /// Forgets a container, as a record that was lost would.
    pub(crate) fn forget(&self, attachment: &Attachment) {
        self.state.known.lock().expect("no panic").remove(attachment);
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.state.seen.lock().expect("no panic").clone()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::Release);
        let socket = socket_path(&self.run_dir);
        let _ = UnixStream::connect(&socket);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(socket);
    }
}

impl State {
    fn serve(&self, listener: &UnixListener) {
        let held = RefCell::new(Vec::new());
        for stream in listener.incoming() {
            if self.stopping.load(Ordering::Acquire) {
                return;
            }
            let stream = stream.expect("connections can be taken");
            let mood = self.mood.lock().expect("no panic").clone();
            match mood {
                Mood::Silent => held.borrow_mut().push(stream),
                Mood::Curt => {}
                mood => self.answer(stream, &mood),
            }
        }
    }

    fn answer(&self, mut stream: UnixStream, mood: &Mood) {
        let mut line = Vec::new();
        let _ = BufReader::new(&stream).read_until(b'\n', &mut line);
        if line.is_empty() {
            // The plugin was killed before it could ask.
            return;
        }
        let request: Request = decode(&line).expect("the plugin sends requests");
        let reply = match mood {
            Mood::Refusing(error) => Reply::Error(error.clone()),
            Mood::Confused => Reply::Collected(Vec::new()),
            Mood::Halting | Mood::Dripping | Mood::Babbling => return Self::stammer(stream, mood),
            _ => self.reply(&request, mood),
        };
        self.seen.lock().expect("no panic").push(request);
        let _ = stream.write_all(&encode(&reply));
    }

    /// Answers on a thread of its own that ends when the plugin has had enough.
    fn stammer(mut stream: UnixStream, mood: &Mood) {
        let (piece, pause) = match mood {
            Mood::Halting => (b"{\"assig".to_vec(), Duration::MAX),
            Mood::Dripping => (b" ".to_vec(), Duration::from_millis(300)),
            _ => (vec![b' '; 64 << 10], Duration::ZERO),
        };
        std::thread::spawn(move || {
            while stream.write_all(&piece).is_ok() {
                stream
                    .set_read_timeout(
                        Some(pause.min(Duration::from_secs(60))).filter(|pause| !pause.is_zero()),
                    )
                    .expect("a timeout");
                // The plugin says no more: this waits until it goes, or for the pause.
                if !pause.is_zero() && matches!(stream.read(&mut [0; 1]), Ok(0)) {
                    return;
                }
            }
        });
    }

    fn reply(&self, request: &Request, mood: &Mood) -> Reply {
        let mut known = self.known.lock().expect("no panic");
        match request {
            Request::Add(add) => {
                let key = Attachment { container: add.container.clone(), ifname: add.ifname.clone() };
                let row = self.table[known.len().min(self.table.len() - 1)].clone();
                let mac = self.mac.lock().expect("no panic").clone().or_else(|| add.mac.clone());
                let fresh = Assignment {
                    addresses: row,
                    mtu: self.mtu,
                    link: add.link.clone(),
                    mac,
                    taken_over: false,
                };
                Reply::Assigned(known.entry(key).or_insert(fresh).clone())
            }
            Request::Del(del) => {
                let key = Attachment { container: del.container.clone(), ifname: del.ifname.clone() };
                known.remove(&key);
                if matches!(mood, Mood::HandsOff) {
                    return Reply::Deleted { link_removed_by: Remover::Plugin };
                }
                self.remove_link(&del.link, &key);
                Reply::Deleted { link_removed_by: Remover::Agent }
            }
            Request::Check(key) => Reply::Known(known.get(key).cloned()),
            Request::Status => Reply::Ready,
            Request::Gc(gc) => {
                let gone: Vec<_> = known.keys().filter(|key| !gc.valid.contains(key)).cloned().collect();
                for key in &gone {
                    let assignment = known.remove(key).expect("it was just listed");
                    self.remove_link(&assignment.link, key);
                }
                Reply::Collected(gone)
            }
        }
    }

    /// As the agent does it: doomed first, removed as a group afterwards.
    fn remove_link(&self, link: &str, key: &Attachment) {
        self.node
            .within(|| {
                let mut socket = Socket::route().expect("a socket");
                let found = links::find(&mut socket, link, &key.container, &key.ifname).expect("links");
                if let Some(end) = found {
                    links::doom(&mut socket, end.index).expect("a link can be doomed");
                    links::remove_doomed(&mut socket).expect("doomed links can be removed");
                }
            })
            .expect("the node's namespace");
    }
}

/// Sends a datagram from one namespace to an address in another and back; whether the first one came through.
pub(crate) fn echo(from: &Space, to: &Space, source: &str, target: &str) -> bool {
    let bind = |address: &str| {
        let socket = UdpSocket::bind((address.parse::<IpAddr>().expect("an address"), 0)).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
        socket
    };
    let (client, server) = (from.within(|| bind(source)), to.within(|| bind(target)));
    let address = server.local_addr().expect("a bound socket");
    if client.send_to(b"hello", address).is_err() {
        return false;
    }
    let mut buffer = [0; 16];
    let Ok((_, sender)) = server.recv_from(&mut buffer) else { return false };
    server.send_to(b"again", sender).is_ok() && client.recv_from(&mut buffer).is_ok()
}
