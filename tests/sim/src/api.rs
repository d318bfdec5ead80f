//! The API server: objects with versions, the history that watches read, and requests carried out one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use manx_agent::node::cluster::OwnNode;
use manx_api::{BGPConfiguration, IPBlock, IPPool, NodeNetwork, POOL_FINALIZER, Time, Timestamp};
use manx_ipam::{BlockId, NodeName};

/// What kind an object is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Pool,
    Config,
    Network,
    Node,
    Block,
}

/// An object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Object {
    Pool(IPPool),
    Config(BGPConfiguration),
    Network(NodeNetwork),
    Node(OwnNode),
    Block(IPBlock),
}

/// What a request is about: the kind and the name.
pub(crate) type Key = (Kind, String);

/// An object as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) object: Arc<Object>,
    pub(crate) version: u64,
    pub(crate) uid: u64,
}

/// One change: an object as it became, or its end.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) key: Key,
    pub(crate) object: Option<Arc<Object>>,
}

/// What a client asks.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Create(Key, Box<Object>),
    /// Creates or replaces, whatever there is.
    Apply(Key, Box<Object>),
    Get(Key),
    /// Deletes what has this UID and, if one is named, this version.
    Delete(Key, u64, Option<u64>),
    /// All blocks with their owners.
    ListBlocks,
    /// A sign of life of this node's agent.
    Renew(String),
    /// The last sign of life of this node's agent.
    GetLease(String),
    /// Adds or removes the finalizer of a pool of this version.
    Finalize(String, bool, u64),
}

/// What it is told.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Done,
    Found(Option<Stored>),
    /// Each block with its owner and its pool.
    Blocks(Vec<(BlockId, String, String)>),
    Lease(Option<u64>),
    /// 409: it exists already, or is not as the request expects it.
    Conflict,
    Missing,
    /// No answer, or one that says nothing.
    Failed,
}

/// The server.
#[derive(Debug, Default)]
pub(crate) struct Api {
    objects: BTreeMap<Key, Stored>,
    history: Vec<Change>,
    leases: BTreeMap<String, u64>,
    version: u64,
    uids: u64,
    /// Blocks that the controller took back, each with the node whose it was.
    collected: BTreeSet<(BlockId, NodeName)>,
    /// Requests carried out.
    pub(crate) requests: u64,
}

impl Api {
    pub(crate) fn get(&self, kind: Kind, name: &str) -> Option<&Stored> {
        self.objects.get(&(kind, name.to_owned()))
    }

    /// All objects of a kind.
    pub(crate) fn all(&self, kind: Kind) -> impl Iterator<Item = (&String, &Stored)> {
        let from = Bound::Included((kind, String::new()));
        let of_kind =
            self.objects.range((from, Bound::Unbounded)).take_while(move |((is, _), _)| *is == kind);
        of_kind.map(|((_, name), stored)| (name, stored))
    }

    pub(crate) fn pools(&self) -> impl Iterator<Item = &IPPool> {
        self.all(Kind::Pool).filter_map(|(_, stored)| match &*stored.object {
            Object::Pool(pool) => Some(pool),
            _ => None,
        })
    }

    pub(crate) fn blocks(&self) -> impl Iterator<Item = &IPBlock> {
        self.all(Kind::Block).filter_map(|(_, stored)| match &*stored.object {
            Object::Block(block) => Some(block),
            _ => None,
        })
    }

    /// How many changes there were: what a watch has seen is a number up to this.
    pub(crate) fn now(&self) -> usize {
        self.history.len()
    }

    /// The changes since then.
    pub(crate) fn since(&self, seen: usize) -> &[Change] {
        self.history.get(seen..).unwrap_or_default()
    }

    /// Creates or replaces an object; gives its UID.
    pub(crate) fn put(&mut self, key: Key, mut object: Object) -> u64 {
        self.version += 1;
        let uid = self.objects.get(&key).map(|stored| stored.uid).unwrap_or_else(|| {
            self.uids += 1;
            self.uids
        });
        stamp(&mut object, &key.1, self.version, uid);
        let object = Arc::new(object);
        self.history.push(Change { key: key.clone(), object: Some(Arc::clone(&object)) });
        self.objects.insert(key, Stored { object, version: self.version, uid });
        uid
    }

    /// Removes an object.
    pub(crate) fn remove(&mut self, key: &Key) {
        if self.objects.remove(key).is_some() {
            self.version += 1;
            self.history.push(Change { key: key.clone(), object: None });
        }
    }

    /// Somebody deletes a pool: it stays while it has a finalizer.
    pub(crate) fn delete_pool(&mut self, name: &str) {
        let key = (Kind::Pool, name.to_owned());
        let Some(Object::Pool(pool)) = self.objects.get(&key).map(|stored| (*stored.object).clone()) else {
            return;
        };
        let finalizers = pool.metadata.finalizers.as_ref();
        if finalizers.is_none_or(Vec::is_empty) {
            return self.remove(&key);
        }
        let mut pool = pool;
        pool.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        self.put(key, Object::Pool(pool));
    }

    /// The controller deleted this: if it is a block, whose it was is kept.
    pub(crate) fn collected(&mut self, object: &Object) {
        if let Object::Block(block) = object
            && let Ok(id) = BlockId::new(block.spec.cidr.network())
        {
            self.collected.insert((id, NodeName::new(block.spec.node.clone())));
        }
    }

    /// Whether the controller took this block back from that node, which has not claimed it again.
    pub(crate) fn is_collected(&self, id: BlockId, node: &NodeName) -> bool {
        let owner = self.blocks().find(|block| block.spec.cidr.network() == id.cidr());
        self.collected.contains(&(id, node.clone()))
            && owner.is_none_or(|block| block.spec.node != node.as_str())
    }

    /// Writes the status of a block: its version changes.
    pub(crate) fn touch(&mut self, key: &Key) {
        if let Some(stored) = self.objects.get(key) {
            let object = (*stored.object).clone();
            self.put(key.clone(), object);
        }
    }

    /// Carries a request out.
    pub(crate) fn carry_out(&mut self, request: Request) -> Answer {
        self.requests += 1;
        match request {
            Request::Create(key, object) => {
                if self.objects.contains_key(&key) {
                    return Answer::Conflict;
                }
                self.put(key, *object);
                Answer::Done
            }
            Request::Apply(key, object) => {
                self.put(key, *object);
                Answer::Done
            }
            Request::Get(key) => Answer::Found(self.objects.get(&key).cloned()),
            Request::Delete(key, uid, version) => match self.objects.get(&key) {
                None => Answer::Missing,
                Some(stored) if stored.uid != uid || version.is_some_and(|it| it != stored.version) => {
                    Answer::Conflict
                }
                Some(_) => {
                    self.remove(&key);
                    Answer::Done
                }
            },
            Request::ListBlocks => {
                let told = |block: &IPBlock| {
                    let id = BlockId::new(block.spec.cidr.network()).ok()?;
                    Some((id, block.spec.node.clone(), block.spec.pool.clone()))
                };
                Answer::Blocks(self.blocks().filter_map(told).collect())
            }
            Request::Renew(node) => {
                *self.leases.entry(node).or_default() += 1;
                Answer::Done
            }
            Request::GetLease(node) => Answer::Lease(self.leases.get(&node).copied()),
            Request::Finalize(name, add, version) => self.finalize(&name, add, version),
        }
    }

    fn finalize(&mut self, name: &str, add: bool, version: u64) -> Answer {
        let key = (Kind::Pool, name.to_owned());
        let Some(stored) = self.objects.get(&key) else { return Answer::Missing };
        if stored.version != version {
            return Answer::Conflict;
        }
        let Object::Pool(pool) = &*stored.object else { return Answer::Missing };
        let mut pool = pool.clone();
        pool.metadata.finalizers = add.then(|| vec![POOL_FINALIZER.to_owned()]);
        if !add && pool.metadata.deletion_timestamp.is_some() {
            self.remove(&key);
        } else {
            self.put(key, Object::Pool(pool));
        }
        Answer::Done
    }
}

/// What the server writes into an object itself.
fn stamp(object: &mut Object, name: &str, version: u64, uid: u64) {
    let metadata = match object {
        Object::Pool(pool) => &mut pool.metadata,
        Object::Config(config) => &mut config.metadata,
        Object::Network(network) => &mut network.metadata,
        Object::Block(block) => &mut block.metadata,
        Object::Node(node) => {
            node.uid = format!("uid-{uid}");
            return;
        }
    };
    metadata.name = Some(name.to_owned());
    metadata.resource_version = Some(version.to_string());
    metadata.uid = Some(format!("uid-{uid}"));
    if metadata.creation_timestamp.is_none() {
        let at = Timestamp::from_second(i64::try_from(version).unwrap_or(0)).unwrap_or_default();
        metadata.creation_timestamp = Some(Time(at));
    }
}
