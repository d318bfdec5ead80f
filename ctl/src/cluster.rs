//! What the API server knows of the pod network: read once, or followed by watches.
//!
//! Our own kinds must be readable. Whoever may not read the others (Nodes; pods, Leases and DaemonSets of Manx's namespace)
//! gets everything that does not need them, and is told what is missing.

use std::fmt::Debug;

use anyhow::{Result, anyhow};
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{BoxStream, select_all};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Client, Resource, ResourceExt as _};
use manx_api::{BGPConfiguration, BGPFilter, BGPPeer, IPBlock, IPClaim, IPPool, NodeNetwork};
use serde::de::DeserializeOwned;

use crate::Context;
use crate::show::{Live, Page};

/// All objects that reports are made from, each kind sorted by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    /// Every node that an agent has reported for.
    pub(crate) networks: Vec<NodeNetwork>,
    /// Every pool.
    pub(crate) pools: Vec<IPPool>,
    /// Every block that a node owns.
    pub(crate) blocks: Vec<IPBlock>,
    /// Every claim of addresses.
    pub(crate) claims: Vec<IPClaim>,
    /// What is true for every session.
    pub(crate) configurations: Vec<BGPConfiguration>,
    /// Whom nodes speak with.
    pub(crate) peers: Vec<BGPPeer>,
    /// What is believed and told.
    pub(crate) filters: Vec<BGPFilter>,
    /// The nodes of Kubernetes.
    pub(crate) nodes: Vec<Node>,
    /// The pods of Manx itself.
    pub(crate) workers: Vec<Pod>,
    /// The Leases of agents and controller.
    pub(crate) leases: Vec<Lease>,
    /// The DaemonSets of Manx.
    pub(crate) daemonsets: Vec<DaemonSet>,
    /// The namespace that Manx runs in.
    pub(crate) manx_namespace: String,
    /// What could not be read, and why, in a sentence each.
    pub(crate) unread: Vec<String>,
}

/// Kinds that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// NodeNetworks.
    Networks,
    /// IPPools.
    Pools,
    /// IPBlocks.
    Blocks,
    /// IPClaims.
    Claims,
    /// BGPConfigurations, BGPPeers and BGPFilters.
    Bgp,
    /// Nodes.
    Nodes,
    /// Pods, Leases and DaemonSets of Manx's namespace.
    Workers,
}

impl Part {
    /// Everything that there is.
    pub(crate) const ALL: [Self; 7] =
        [Self::Networks, Self::Pools, Self::Blocks, Self::Claims, Self::Bgp, Self::Nodes, Self::Workers];

    fn sources(self, client: &Client, namespace: &str) -> Vec<Source> {
        let all = || client.clone();
        let inside = || client.clone();
        match self {
            Self::Networks => vec![Source::new(Api::all(all()), true, |cluster| &mut cluster.networks)],
            Self::Pools => vec![Source::new(Api::all(all()), true, |cluster| &mut cluster.pools)],
            Self::Blocks => vec![Source::new(Api::all(all()), true, |cluster| &mut cluster.blocks)],
            Self::Claims => vec![Source::new(Api::all(all()), true, |cluster| &mut cluster.claims)],
            Self::Bgp => vec![
                Source::new(Api::all(all()), true, |cluster| &mut cluster.configurations),
                Source::new(Api::all(all()), true, |cluster| &mut cluster.peers),
                Source::new(Api::all(all()), true, |cluster| &mut cluster.filters),
            ],
            Self::Nodes => vec![Source::new(Api::all(all()), false, |cluster| &mut cluster.nodes)],
            Self::Workers => vec![
                Source::new(Api::namespaced(inside(), namespace), false, |cluster| &mut cluster.workers),
                Source::new(Api::namespaced(inside(), namespace), false, |cluster| &mut cluster.leases),
                Source::new(Api::namespaced(inside(), namespace), false, |cluster| &mut cluster.daemonsets),
            ],
        }
    }
}

impl Cluster {
    /// Reads these parts, all at once.
    ///
    /// # Errors
    /// When the API server is away, or does not let us read kinds of ours.
    pub(crate) async fn read(context: &Context, parts: &[Part]) -> Result<Self> {
        let client = context.client().await?;
        let _progress = context.show.progress("reading the cluster");
        let sources = sources(&client, parts, context.manx_namespace());
        let lists = join_all(sources.iter().map(|source| (source.list)())).await;
        let mut cluster = Self::empty(context);
        for (source, list) in sources.iter().zip(lists) {
            match list {
                Ok(put) => put(&mut cluster),
                Err(error) => cluster.missed(source, &error)?,
            }
        }
        Ok(cluster)
    }

    /// The same parts now and after each change, from watches. It ends only with an error.
    ///
    /// # Errors
    /// As [`Self::read`]. An API server that goes away later is told of in `unread` until it is back.
    pub(crate) async fn follow(
        context: &Context,
        parts: &[Part],
    ) -> Result<impl Stream<Item = Result<Self>> + use<>> {
        // What cannot be read at all is found by reading once.
        let first = Self::read(context, parts).await?;
        let client = context.client().await?;
        let sources = sources(&client, parts, context.manx_namespace());
        let sources = sources
            .into_iter()
            .filter(|source| !first.unread.iter().any(|told| told.starts_with(&source.kind)));
        let (events, puts): (Vec<_>, Vec<_>) = sources.map(|source| (source.follow)()).unzip();
        // All that could be read is told by the watches from now on.
        let first = Self { unread: first.unread, ..Self::empty(context) };
        let ready = vec![false; events.len()];
        let numbered =
            events.into_iter().enumerate().map(|(at, events)| events.map(move |event| (at, event)).boxed());
        let seen = Seen { first, puts, ready, trouble: None };
        let stream = select_all(numbered).ready_chunks(1024).scan(seen, |seen, events| {
            let news = seen.take(events).then(|| Ok(seen.now()));
            std::future::ready(Some(news))
        });
        Ok(stream.filter_map(std::future::ready))
    }

    fn empty(context: &Context) -> Self {
        Self { manx_namespace: context.manx_namespace().to_owned(), ..Self::default() }
    }

    fn missed(&mut self, source: &Source, error: &kube::Error) -> Result<()> {
        let kind = &source.kind;
        if source.needed {
            let what = match error {
                kube::Error::Api(status) if status.code == 404 => {
                    "is Manx installed? Its definitions (deploy/crds) are not".to_owned()
                }
                kube::Error::Api(status) => status.message.clone(),
                error => format!("the API server does not answer: {}", chain(error)),
            };
            return Err(anyhow!("cannot list {kind}: {what}"));
        }
        let why = match error {
            kube::Error::Api(status) => status.message.clone(),
            error => chain(error),
        };
        self.unread.push(format!("{kind}s cannot be read: {why}"));
        Ok(())
    }
}

/// An error with all that caused it.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn sources(client: &Client, parts: &[Part], namespace: &str) -> Vec<Source> {
    parts.iter().flat_map(|part| part.sources(client, namespace)).collect()
}

/// What watches have told so far.
struct Seen {
    /// What is not watched: nothing but why that is so.
    first: Cluster,
    puts: Vec<Put>,
    ready: Vec<bool>,
    trouble: Option<(usize, String)>,
}

impl Seen {
    /// Whether there is something to tell.
    fn take(&mut self, events: Vec<(usize, Result<bool, watcher::Error>)>) -> bool {
        for (at, event) in events {
            match event {
                Ok(complete) => {
                    self.ready[at] |= complete;
                    self.trouble.take_if(|(of, _)| *of == at);
                }
                Err(error) => {
                    self.trouble = Some((
                        at,
                        format!(
                            "the API server does not answer, and what is shown is from before: {}",
                            chain(&error)
                        ),
                    ));
                }
            }
        }
        self.ready.iter().all(|ready| *ready)
    }

    fn now(&self) -> Cluster {
        let mut cluster = self.first.clone();
        self.puts.iter().for_each(|put| put(&mut cluster));
        cluster.unread.extend(self.trouble.iter().map(|(_, trouble)| trouble.clone()));
        cluster
    }
}

type Once = Box<dyn FnOnce(&mut Cluster) + Send>;
type Put = Box<dyn Fn(&mut Cluster) + Send>;
/// Events of a watch; true when the list is complete from then on.
type Events = BoxStream<'static, Result<bool, watcher::Error>>;

/// One kind of object, and where it goes.
struct Source {
    kind: String,
    needed: bool,
    list: Box<dyn Fn() -> BoxFuture<'static, kube::Result<Once>>>,
    follow: Box<dyn FnOnce() -> (Events, Put)>,
}

impl Source {
    fn new<K>(api: Api<K>, needed: bool, place: fn(&mut Cluster) -> &mut Vec<K>) -> Self
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let listed = api.clone();
        Self {
            kind: K::kind(&()).into_owned(),
            needed,
            list: Box::new(move || {
                let api = listed.clone();
                async move {
                    let items = api.list(&ListParams::default()).await?.items;
                    Ok(Box::new(move |cluster: &mut Cluster| *place(cluster) = sorted(items)) as Once)
                }
                .boxed()
            }),
            follow: Box::new(move || {
                let (store, writer) = reflector::store();
                let events = reflector(writer, watcher(api, watcher::Config::default()).default_backoff());
                let events = events.map(|event| {
                    event.map(|event| !matches!(event, watcher::Event::Init | watcher::Event::InitApply(_)))
                });
                let put = move |cluster: &mut Cluster| {
                    *place(cluster) = sorted(store.state().iter().map(|object| (**object).clone()).collect());
                };
                (events.boxed(), Box::new(put) as Put)
            }),
        }
    }
}

fn sorted<K: Resource>(mut objects: Vec<K>) -> Vec<K> {
    objects.sort_by_cached_key(|object| (object.namespace(), object.name_any()));
    objects
}

impl Context {
    /// Shows what `find` makes of the cluster, once or whenever it changes, and gives what was shown last.
    ///
    /// # Errors
    /// As [`Cluster::read`].
    pub(crate) async fn each<T: serde::Serialize>(
        &self,
        parts: &[Part],
        live: Live,
        find: impl Fn(&Cluster) -> T,
        text: impl Fn(&T, &Page) -> String,
    ) -> Result<Option<T>> {
        let show = self.show.asked(live.output);
        if live.watch {
            let values = Cluster::follow(self, parts).await?;
            return show.follow(values.map(|cluster| cluster.map(|cluster| find(&cluster))), text).await;
        }
        let cluster = Cluster::read(self, parts).await?;
        let value = find(&cluster);
        show.print(&value, text)?;
        Ok(Some(value))
    }
}
