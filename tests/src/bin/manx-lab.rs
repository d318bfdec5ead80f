//! `manx-lab`: brings up the lab, shows what it proves, and gives commands to play with it.

#[path = "manx-lab/kubernetes.rs"]
mod kubernetes;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use manx_tests::lab::router::RouterKind;
use manx_tests::lab::{Lab, Options, netns, show};
use tokio::signal::unix::{SignalKind, signal};

/// A Manx cluster out of network namespaces on this machine; with --kubernetes as the first argument, one with a real
/// Kubernetes.
#[derive(Parser)]
#[command(name = "cargo xtask lab", version)]
struct Arguments {
    /// Name of the lab, the prefix of all its namespaces.
    #[arg(long, default_value = "manx", global = true)]
    lab: String,
    #[command(subcommand)]
    command: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring the lab up, start two pods on each node, and prove that they talk (the default).
    Up {
        /// How many nodes.
        #[arg(long, default_value_t = 3)]
        nodes: usize,
        /// What speaks BGP on the top-of-rack router.
        #[arg(long, value_enum, default_value_t = RouterName::Bird)]
        router: RouterName,
    },
    /// Show pools, blocks, nodes, sessions and routes, and prove again that pods talk.
    Status,
    /// Start or end a pod, or run a command in one.
    #[command(subcommand)]
    Pod(PodVerb),
    /// Add or remove a node, or run a command on one.
    #[command(subcommand)]
    Node(NodeVerb),
    /// kubectl against the lab's API server.
    Kubectl {
        /// What kubectl gets.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Take the lab down and leave nothing behind, also after a run that was killed.
    Down,
}

#[derive(Clone, Copy, ValueEnum)]
enum RouterName {
    Bird,
    Frr,
}

#[derive(Subcommand)]
enum PodVerb {
    /// Start the pod NAME on NODE through the real plugin.
    Add { name: String, node: String },
    /// End the pod NAME.
    Del { name: String },
    /// Run a command in the pod's network namespace.
    Exec {
        name: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
}

#[derive(Subcommand)]
enum NodeVerb {
    /// Add one more node.
    Add,
    /// Remove a node as if its machine had died.
    Del { name: String },
    /// Run a command in the network namespace of a node, or of `tor`, `outside` or `cp`.
    Exec {
        name: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().collect();
    let outcome = if words.get(1).is_some_and(|word| word == "--kubernetes") {
        words.remove(1);
        kubernetes::run(words)
    } else {
        run(Arguments::parse())
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let name = arguments.lab;
    match arguments.command.unwrap_or(Verb::Up { nodes: 3, router: RouterName::Bird }) {
        Verb::Up { nodes, router } => up(&name, nodes, router),
        Verb::Status => Ok(code(show::all(&Lab::open(&name)?)?)),
        Verb::Pod(verb) => pod(&name, verb),
        Verb::Node(verb) => node(&name, verb),
        Verb::Kubectl { arguments } => pass(Lab::open(&name)?.kubectl_command().args(arguments)),
        Verb::Down => {
            for stale in Lab::stale(&name) {
                Lab::down_by_name(&stale)?;
            }
            Lab::down_by_name(&name)?;
            println!("the lab {name} is gone");
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn up(name: &str, nodes: usize, router: RouterName) -> Result<ExitCode> {
    clean_up_on_interrupt(name, Lab::down_by_name)?;
    let router = match router {
        RouterName::Bird => RouterKind::Bird,
        RouterName::Frr => RouterKind::Frr,
    };
    println!("bringing up {nodes} nodes, a {router:?} router, a host outside and an API server");
    let mut lab = Lab::up(&Options { name: name.to_owned(), nodes, router })?;
    for node in lab.nodes() {
        for letter in ["a", "b"] {
            let pod = lab.add_pod(&format!("{letter}{}", node.trim_start_matches("node")), &node)?;
            println!("pod {} on {}: {:?}", pod.name, pod.node, pod.addresses);
        }
    }
    let failed = show::all(&lab)?;
    lab.keep();
    println!(
        "\nThe lab stays up. Play with it: cargo xtask lab pod add|del|exec, node add|del|exec, kubectl …, status; \
         end it: cargo xtask lab down"
    );
    Ok(code(failed))
}

fn pod(name: &str, verb: PodVerb) -> Result<ExitCode> {
    let mut lab = Lab::open(name)?;
    match verb {
        PodVerb::Add { name, node } => {
            let pod = lab.add_pod(&name, &node)?;
            println!("pod {} on {}: {:?}", pod.name, pod.node, pod.addresses);
            Ok(ExitCode::SUCCESS)
        }
        PodVerb::Del { name } => {
            lab.del_pod(&name)?;
            println!("pod {name} is gone");
            Ok(ExitCode::SUCCESS)
        }
        PodVerb::Exec { name, command } => exec(&lab.pod(&name)?.sandbox.netns, &command),
    }
}

fn node(name: &str, verb: NodeVerb) -> Result<ExitCode> {
    let mut lab = Lab::open(name)?;
    match verb {
        NodeVerb::Add => {
            println!("{} is ready", lab.add_node()?);
            Ok(ExitCode::SUCCESS)
        }
        NodeVerb::Del { name } => {
            lab.remove_node(&name)?;
            println!("{name} is gone");
            Ok(ExitCode::SUCCESS)
        }
        NodeVerb::Exec { name, command } => exec(&lab.netns(&name), &command),
    }
}

fn exec(netns: &str, words: &[String]) -> Result<ExitCode> {
    let (program, arguments) = words.split_first().context("no command to run")?;
    pass(netns::command(netns, program).args(arguments))
}

/// Runs a command with our terminal and passes its exit status on.
fn pass(command: &mut std::process::Command) -> Result<ExitCode> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

fn code(failed: usize) -> ExitCode {
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// On Ctrl-C or SIGTERM while the lab comes up, takes down what there is of it.
///
/// By handlers, not by a signal mask: a mask would be inherited by the daemons.
fn clean_up_on_interrupt(name: &str, down: fn(&str) -> Result<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let name = name.to_owned();
    let (mut interrupt, mut terminate) = {
        let _guard = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        });
        eprintln!("interrupted: taking the lab down");
        if let Err(error) = down(&name) {
            eprintln!("error: {error:#}");
        }
        std::process::exit(130);
    });
    Ok(())
}
