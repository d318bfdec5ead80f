//! Bad input of every kind is refused before anything is changed, and is never repeated.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::json;

use crate::node::{Agent, Answer, Node, variables};

const PLUGIN: &str = env!("CARGO_BIN_EXE_manx-cni");

/// Calls ADD with some variables replaced (`None` removes one), and sees that nothing came of it.
fn refused(node: &Node, agent: &Agent, changes: &[(&'static str, Option<&str>)]) -> (u64, String) {
    let sandbox = node.sandbox("c1");
    let all = || [&node.space, &sandbox.space].map(|space| (space.photograph(), space.settings()));
    let before = all();
    let mut variables = variables("ADD", &sandbox);
    for (name, value) in changes {
        match value {
            Some(value) => variables.insert(name, (*value).to_owned()),
            None => variables.remove(name),
        };
    }
    let answer = node.exec(PLUGIN, &variables, &node.config(json!({})).to_string());
    assert!(all() == before, "{changes:?}");
    assert_eq!(manx_cni::tombstone::list(&node.run_dir).expect("readable"), []);
    assert!(agent.seen().is_empty(), "the agent was asked: {changes:?}");
    answer.failed()
}

#[test]
fn a_wrong_environment_changes_nothing() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&["10.244.3.7"]]);
    for name in ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        for value in [None, Some("")] {
            let (code, text) = refused(&node, &agent, &[(name, value)]);
            assert!(code == 4 && text.contains(name), "{name}: {text}");
        }
    }
    for bad in ["a-name-that-is-too-long", "a/b", "a:b", "a b", ".", "..", "eth%d"] {
        let (code, text) = refused(&node, &agent, &[("CNI_IFNAME", Some(bad))]);
        assert!(code == 4 && text.contains("CNI_IFNAME"), "{bad}: {text}");
    }
    for bad in ["../../etc", "-rf", "a b"] {
        let (code, text) = refused(&node, &agent, &[("CNI_CONTAINERID", Some(bad))]);
        assert!(code == 4 && text.contains("CNI_CONTAINERID"), "{bad}: {text}");
    }
    let (code, text) = refused(&node, &agent, &[("CNI_ARGS", Some("what=ever"))]);
    assert!(code == 4 && text.contains("CNI_ARGS"), "{text}");
}

#[test]
fn a_namespace_that_is_none_changes_nothing() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&["10.244.3.7"]]);
    let (fifo, file) = (node.run_dir.join("fifo"), node.run_dir.join("file"));
    mkfifo(&fifo, Mode::S_IRWXU).expect("a FIFO");
    std::fs::write(&file, "").expect("a file");
    let cases = [
        (fifo.to_str().expect("UTF-8"), "is a FIFO"),
        (file.to_str().expect("UTF-8"), "is a plain file"),
        (node.run_dir.to_str().expect("UTF-8"), "is a directory"),
        ("/nonexistent", "there is no namespace"),
        ("/dev/null", "is a device"),
        ("/proc/self/ns/mnt", "another kind of namespace"),
        ("/proc/self/ns/net", "the host's own"),
        ("/proc/thread-self/ns/net", "the host's own"),
    ];
    for (path, reason) in cases {
        let (code, text) = refused(&node, &agent, &[("CNI_NETNS", Some(path))]);
        assert!(code == 4 && text.contains("CNI_NETNS") && text.contains(reason), "{path}: {text}");
    }
    let (_, text) = refused(&node, &agent, &[("CNI_NETNS", Some(&node.space.path()))]);
    assert!(text.contains("the host's own"), "by another path: {text}");
}

#[test]
fn a_wrong_configuration_changes_nothing_and_is_never_repeated() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&["10.244.3.7"]]);
    let sandbox = node.sandbox("c1");
    let all = || [&node.space, &sandbox.space].map(|space| (space.photograph(), space.settings()));
    let before = all();
    let config = |changes| node.config(changes).to_string();
    let cases = [
        (String::new(), 6),
        ("s3cret".into(), 6),
        (r#"{"password": "s3cret""#.into(), 6),
        ("[]".into(), 6),
        (config(json!({ "cniVersion": null })), 1),
        (config(json!({ "cniVersion": "1.2.0" })), 1),
        (config(json!({ "cniVersion": "s3cret!" })), 1),
        (config(json!({ "name": "s3cret !" })), 7),
        (config(json!({ "type": "../s3cret" })), 7),
        (config(json!({ "mtu": "s3cret" })), 7),
        (config(json!({ "ipam": { "type": "/s3cret" } })), 2),
        (config(json!({ "prevResult": "s3cret" })), 6),
        ("[".repeat(100_000), 6),
        (" ".repeat((4 << 20) + 1), 5),
    ];
    for (stdin, code) in cases {
        let answer = node.exec(PLUGIN, &variables("ADD", &sandbox), &stdin);
        let shown = &stdin[..stdin.len().min(60)];
        let everything = format!("{answer:?}");
        assert!(!everything.contains("s3cret"), "{shown}: {everything}");
        assert_eq!(answer.failed().0, code, "{shown}: {everything}");
    }
    assert!(all() == before);
    assert!(agent.seen().is_empty());
}

#[test]
fn a_namespace_by_whatever_path_is_entered_and_one_that_died_is_not() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&["10.244.3.7"]]);
    let sandbox = node.sandbox("c1");
    let mut sleeper = sandbox
        .space
        .within(|| Command::new("sleep").arg("60").stdout(Stdio::null()).spawn())
        .expect("sleep is everywhere");
    let link = node.run_dir.join("a link with blanks\u{e9}");
    std::os::unix::fs::symlink(sandbox.space.path(), &link).expect("a symbolic link");
    let by_process = format!("/proc/{}/ns/net", sleeper.id());
    let roundabout = format!("/proc/../proc/{}/task/{0}/ns/../ns/net", sleeper.id());
    for path in [&by_process, &roundabout, &link.display().to_string()] {
        let mut variables = variables("ADD", &sandbox);
        variables.insert("CNI_NETNS", path.clone());
        let result = node.exec(PLUGIN, &variables, &node.config(json!({})).to_string()).ok();
        assert_eq!(result["interfaces"][1]["sandbox"], json!(path));
        assert!(sandbox.eth0().is_some(), "{path}");
        node.call("DEL", &sandbox).ok();
        assert!(sandbox.eth0().is_none(), "{path}");
    }
    sleeper.kill().expect("it sleeps");
    sleeper.wait().expect("it ends");
    let asked = agent.seen().len();
    let mut variables = variables("ADD", &sandbox);
    variables.insert("CNI_NETNS", by_process);
    let (code, text) = node.exec(PLUGIN, &variables, &node.config(json!({})).to_string()).failed();
    assert!(code == 4 && text.contains("there is no namespace"), "{text}");
    assert_eq!(agent.seen().len(), asked);
}

#[test]
fn container_ids_may_be_as_odd_as_the_specification_allows() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&["10.244.3.7"]]);
    let long = "x".repeat(200);
    for container in ["0", "A-b_c.d", "a..b", "c1.", &long] {
        let sandbox = node.sandbox_of(container, None);
        node.call("ADD", &sandbox).ok();
        assert_eq!(node.pod_link().expect("a link")["ifalias"], format!("manx:{container}:eth0"));
        node.call("DEL", &sandbox).ok();
        assert!(node.pod_link().is_none() && agent.known().is_empty(), "{container}");
    }
}

#[test]
fn an_error_is_in_the_version_that_the_runtime_speaks() {
    let Some(node) = Node::new() else { return };
    let sandbox = node.sandbox("c1");
    let answer = node.call_with("ADD", &sandbox, json!({ "cniVersion": "0.4.0" }));
    assert_eq!(answer.json["cniVersion"], "0.4.0");
    assert!(answer.stderr.is_empty(), "{}", answer.stderr);
}

#[test]
fn a_runtime_that_never_closes_standard_input_is_given_up() {
    let started = Instant::now();
    let mut child = Command::new(PLUGIN)
        .env_clear()
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the plugin starts");
    let held_open = child.stdin.take();
    let answer = Answer::of(child.wait_with_output().expect("the plugin ends"));
    drop(held_open);
    assert_eq!(answer.failed().0, 5);
    assert!(started.elapsed() >= Duration::from_secs(4));
}
