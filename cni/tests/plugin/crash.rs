//! A plugin that is killed at any point leaves nothing that the runtime's next call does not put right.
//!
//! `strace` lists the system calls of an undisturbed run, then kills one run ahead of each of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::node::{Agent, Node, Sandbox, variables};

const V4: &str = "10.244.3.7";
const V6: &str = "fd00:10:244::307";

/// A system call of a run: its name, and how many of that name there were up to this one.
type Point = (String, usize);

/// Calls the plugin under `strace`; whether it got through.
fn traced(node: &Node, verb: &str, sandbox: &Sandbox, options: &[&str]) -> bool {
    let words = [options, &[env!("CARGO_BIN_EXE_manx-cni")]].concat();
    node.spawn("strace", &words, &variables(verb, sandbox), &node.config(json!({})).to_string()).succeeded
}

/// The system calls from the first one that reads standard input on.
fn points(node: &Node, verb: &str, sandbox: &Sandbox) -> Vec<Point> {
    let file = node.run_dir.join("trace");
    assert!(traced(node, verb, sandbox, &["-qq", "-o", file.to_str().expect("UTF-8")]));
    let trace = std::fs::read_to_string(file).expect("a trace");
    let mut counts = BTreeMap::new();
    let mut begun = false;
    let mut points = Vec::new();
    for line in trace.lines() {
        let Some((name, rest)) = line.split_once('(') else { continue };
        let count = counts.entry(name.to_owned()).and_modify(|count| *count += 1).or_insert(1);
        begun |= name == "read" && rest.starts_with("0,");
        if begun {
            points.push((name.to_owned(), *count));
        }
    }
    assert!(points.len() >= 10, "{trace}");
    points
}

/// Calls the plugin and kills it ahead of one of its system calls.
fn killed_at(node: &Node, verb: &str, sandbox: &Sandbox, (name, count): &Point) {
    let inject = format!("inject={name}:signal=KILL:when={count}");
    let through = traced(node, verb, sandbox, &["-qq", "-o", "/dev/null", "-e", &inject]);
    assert!(!through, "it survived {name} {count}");
}

fn strace_is_there(node: &Node) -> bool {
    let there = node.space.try_run("strace -V").is_ok();
    if !there {
        println!("ignored: no strace (package strace)");
    }
    there
}

fn await_same(node: &Node, before: &str, point: &Point) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while node.space.photograph() != before {
        assert!(Instant::now() < deadline, "killed at {point:?}: {}", node.space.photograph());
    }
}

#[test]
fn add_killed_at_any_system_call_is_put_right_by_add_or_del() {
    let Some(node) = Node::new() else { return };
    if !strace_is_there(&node) {
        return;
    }
    let agent = Agent::start(&node, &[&[V4, V6]]);
    let before = node.space.photograph();
    let sandbox = node.sandbox("c0");
    let points = points(&node, "ADD", &sandbox);
    node.call("DEL", &sandbox).ok();
    for point in points {
        let sandbox = node.sandbox("c1");
        killed_at(&node, "ADD", &sandbox, &point);
        node.call("DEL", &sandbox).ok();
        assert!(agent.known().is_empty(), "killed at {point:?}");
        // What was half made goes with the sandbox, which the runtime removes after DEL.
        drop(sandbox);
        await_same(&node, &before, &point);

        let sandbox = node.sandbox("c1");
        killed_at(&node, "ADD", &sandbox, &point);
        let result = node.call("ADD", &sandbox).ok();
        node.call_with("CHECK", &sandbox, json!({ "prevResult": result })).ok();
        node.call("DEL", &sandbox).ok();
    }
}

#[test]
fn del_killed_at_any_system_call_is_put_right_by_del_with_and_without_the_agent() {
    let Some(node) = Node::new() else { return };
    if !strace_is_there(&node) {
        return;
    }
    let before = node.space.photograph();
    for away in [false, true] {
        let attach = |container| {
            let sandbox = node.sandbox(container);
            let agent = Agent::start(&node, &[&[V4, V6]]);
            node.call("ADD", &sandbox).ok();
            ((!away).then_some(agent), sandbox)
        };
        let (agent, sandbox) = attach("c1");
        let points = points(&node, "DEL", &sandbox);
        drop(agent);
        for point in points {
            let (agent, sandbox) = attach("c1");
            killed_at(&node, "DEL", &sandbox, &point);
            node.call("DEL", &sandbox).ok();
            await_same(&node, &before, &point);
            if away {
                assert_eq!(manx_cni::tombstone::list(&node.run_dir).expect("readable").len(), 1);
            } else {
                assert!(agent.is_some_and(|agent| agent.known().is_empty()));
            }
        }
    }
}
