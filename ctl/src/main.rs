//! `manxctl`: what the pod network is doing, for people. On the PATH as `kubectl-manx` it is also `kubectl manx`.
//!
//! It reads the same objects as `kubectl get` and puts them together: what is up, and what is wrong and where. What only
//! one node knows, it asks that node.
//!
//! Each command is a module with its `Options` and `run(options, &Context)`. Its exit status is 0 when all is well, 1 when
//! something is wrong, and 2 when that could not be found out.

mod agent;
mod ask;
mod bgp;
mod blocks;
mod check;
mod checks;
mod cluster;
mod completion;
mod diags;
mod doctor;
#[cfg(test)]
mod documented;
mod errors;
mod explain;
mod finding;
mod guards;
mod ipam;
mod manual;
mod migrate;
mod mrt;
mod name;
mod nodes;
mod peers;
mod pools;
mod routes;
mod screens;
mod show;
mod status;
mod table;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use clap::{Parser, Subcommand};
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::sync::OnceCell;

use show::Show;

/// What the pod network is doing.
#[derive(Parser)]
#[command(name = "manxctl", version, max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    asking: ask::Asking,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What is there, what is wrong and what to do; exit status 1 when something is.
    Status(status::Options),
    /// Every node as a router, and the agent on it.
    Nodes(nodes::Options),
    /// Every BGP session: where, with whom, its state, and why it last went down.
    Peers(peers::Options),
    /// Every pool, and how full it is.
    Pools(pools::Options),
    /// Which node has which block, how full it is, and since when.
    Blocks(blocks::Options),
    /// Who has an address, and whether everybody agrees about all of them.
    #[command(subcommand)]
    Ipam(ipam::Command),
    /// Every BGP session, what its last error means and what to do about it.
    Bgp(bgp::Options),
    /// The BGP tables of nodes: best routes, what a peer said, what a peer is told.
    Routes(routes::Options),
    /// Everything about an address, a pod or a prefix: from its pool to the route on every node, and where that breaks.
    Explain(explain::Options),
    /// The path of a packet from a pod, hop by hop, with probes sent along it; exit status 1 when it is broken.
    Trace(trace::Options),
    /// The BGP table of the agent of this machine, as an MRT file (RFC 6396).
    Mrt(mrt::Options),
    /// A live view of nodes, sessions, pools and what is wrong, in this terminal.
    Top(screens::top::Options),
    /// The same as a page in the browser of this machine, with a map of the network and of every pool's blocks.
    Ui(screens::ui::Options),
    /// Cause and cure of a message of Manx: paste it.
    Errors(errors::Options),
    /// Whether Manx can be installed: on the nodes of a cluster, or on this machine.
    Check(check::Options),
    /// What is wrong with a running Manx and its nodes, and what to do; exit status 1 when something is.
    Doctor(doctor::Options),
    /// Everything that tells how the pod network is, in one file without secrets.
    Diags(diags::Options),
    /// Moves in from another network without restarting pods; docs/migrate-calico.md tells how.
    #[command(subcommand)]
    Migrate(migrate::From),
    /// Prints what a shell needs to complete commands and options.
    Completion(completion::Options),
    /// Writes the man pages.
    Manual(manual::Options),
}

impl Command {
    async fn run(self, context: &Context) -> Result<ExitCode> {
        match self {
            Self::Status(options) => status::run(options, context).await,
            Self::Nodes(options) => nodes::run(options, context).await,
            Self::Pools(options) => pools::run(options, context).await,
            Self::Blocks(options) => blocks::run(options, context).await,
            Self::Ipam(command) => ipam::run(command, context).await,
            Self::Peers(options) => peers::run(options, context).await,
            Self::Bgp(options) => bgp::run(options, context).await,
            Self::Routes(options) => routes::run(options, context).await,
            Self::Explain(options) => explain::run(options, context).await,
            Self::Trace(options) => trace::run(options, context).await,
            Self::Mrt(options) => mrt::run(options, context).await,
            Self::Top(options) => screens::top::run(options, context).await,
            Self::Ui(options) => screens::ui::run(options, context).await,
            Self::Errors(options) => errors::run(options, context),
            Self::Check(options) => check::run(options, context).await,
            Self::Diags(options) => diags::run(options, context).await,
            Self::Doctor(options) => doctor::run(options, context).await,
            Self::Migrate(from) => migrate::run(from, context).await,
            Self::Completion(options) => completion::run(&options),
            Self::Manual(options) => manual::run(&options),
        }
    }
}

/// Which cluster, and where in it.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Which cluster")]
pub(crate) struct Connection {
    /// The kubeconfig file; unset: $KUBECONFIG, else ~/.kube/config, else the service account of this pod.
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig.
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// The namespace of pods that are named without one; unset: that of the context.
    #[arg(long, short, global = true, value_name = "NAME")]
    namespace: Option<String>,
    /// The namespace that Manx runs in.
    #[arg(long, global = true, value_name = "NAME", default_value = "manx-system")]
    manx_namespace: String,
}

impl Connection {
    async fn config(&self) -> Result<kube::Config> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        if let Some(path) = &self.kubeconfig {
            let file = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
            return kube::Config::from_custom_kubeconfig(file, &options).await.map_err(unusable);
        }
        if self.context.is_some() || std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() {
            return kube::Config::from_kubeconfig(&options).await.map_err(unusable);
        }
        kube::Config::infer()
            .await
            .context("no cluster to ask: neither a kubeconfig nor a service account can be used")
    }
}

/// Why there is no cluster to ask, in one sentence.
fn unusable(error: kube::config::KubeconfigError) -> anyhow::Error {
    use kube::config::KubeconfigError as Why;
    match error {
        Why::ReadConfig(error, path) => anyhow!(
            "no cluster to ask: {} cannot be read ({error}): set KUBECONFIG, say --kubeconfig, or run where a service account is mounted",
            path.display()
        ),
        error => anyhow!("no cluster to ask: {error}: set KUBECONFIG, or say --kubeconfig or --context"),
    }
}

/// What every command gets: the cluster to ask, and how to show what it says.
pub(crate) struct Context {
    connection: Connection,
    asking: ask::Asking,
    /// The terminal; `show.asked(&options.show)` is how this command's output was asked for.
    pub(crate) show: Show,
    client: OnceCell<kube::Client>,
}

impl Context {
    fn new(connection: Connection, asking: ask::Asking) -> Self {
        Self { connection, asking, show: Show::here(), client: OnceCell::new() }
    }

    /// A client of the cluster, made when it is first asked for.
    ///
    /// # Errors
    /// When there is no kubeconfig, or none that can be used.
    pub(crate) async fn client(&self) -> Result<kube::Client> {
        let made = self
            .client
            .get_or_try_init(async || anyhow::Ok(kube::Client::try_from(self.connection.config().await?)?));
        Ok(made.await?.clone())
    }

    /// The nodes, each to be asked what only it knows.
    ///
    /// # Errors
    /// As [`Self::client`], and when the API server does not say which nodes there are.
    pub(crate) async fn nodes(&self) -> Result<ask::Nodes> {
        self.asking.nodes(&self.client().await?, self.manx_namespace()).await
    }

    /// What people call the cluster: the context of the kubeconfig; empty where there is none.
    pub(crate) fn cluster_name(&self) -> String {
        if let Some(context) = &self.connection.context {
            return context.clone();
        }
        let file = self.connection.kubeconfig.as_ref().map_or_else(Kubeconfig::read, Kubeconfig::read_from);
        file.ok().and_then(|file| file.current_context).unwrap_or_default()
    }

    /// The namespace that Manx runs in.
    pub(crate) fn manx_namespace(&self) -> &str {
        &self.connection.manx_namespace
    }

    /// The namespace of pods that are named without one.
    ///
    /// # Errors
    /// As [`Self::client`].
    pub(crate) async fn namespace(&self) -> Result<String> {
        match &self.connection.namespace {
            Some(namespace) => Ok(namespace.clone()),
            None => Ok(self.client().await?.default_namespace().to_owned()),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Arguments = name::parse();
    let context = Context::new(arguments.connection, arguments.asking);
    match arguments.command.run(&context).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// All objects of a kind of ours.
pub(crate) async fn list<K>(client: &kube::Client) -> Result<Vec<K>>
where
    K: kube::Resource<Scope = kube::core::ClusterResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + for<'de> serde::Deserialize<'de>,
{
    let objects = Api::<K>::all(client.clone()).list(&ListParams::default()).await;
    let kind = K::kind(&());
    let objects = objects.with_context(|| format!("cannot list {kind}: are the CRDs of Manx installed?"))?;
    Ok(objects.items)
}

/// Writes to standard output; a reader that has gone away, such as `head`, is no error.
pub(crate) fn write_out(text: &[u8]) -> Result<()> {
    use std::io::Write;
    match std::io::stdout().write_all(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
