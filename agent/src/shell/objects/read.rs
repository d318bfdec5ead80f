//! From a directory of files to a [`Cluster`]: which files count, what stands in them, and what is wrong with them.
//!
//! A file that cannot be read whole keeps the objects that it had before; so a slip in an editor ends no session.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use manx_api::{BGPConfiguration, BGPFilter, BGPPeer, IPBlock, IPPool, NodeNetwork};
use manx_ipam::{BlockId, NodeName};
use manx_schema::Schema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::yaml::{self, Place, Tree};
use crate::node::cluster::{Cluster, Objects};
use crate::node::secret::{self, SecretName};
use crate::shell::record::read_bounded;

/// The largest file that is read, in octets.
const FILE_LIMIT: u64 = 16 << 20;

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    /// The file's name in the directory.
    pub file: String,
    /// The line, counted from 1; 0 when it is about the whole file.
    pub line: u64,
    /// The field, as in `spec.importV4[2].cidr`; empty when it is about the whole document.
    pub field: String,
    /// What is wrong.
    pub text: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.text)
    }
}

/// One object of a file.
#[derive(Debug, Clone)]
enum Object {
    Pool(IPPool),
    Configuration(BGPConfiguration),
    Peer(BGPPeer),
    Filter(BGPFilter),
    Block(IPBlock),
    Network(NodeNetwork),
    Secret(Secret),
}

/// The kinds that are read.
const KINDS: &str = "IPPool, IPBlock, BGPConfiguration, BGPPeer, BGPFilter, NodeNetwork and Secret";

/// An object and where it stands.
#[derive(Debug, Clone)]
struct Placed {
    object: Object,
    line: u64,
}

/// What is known of one file.
#[derive(Debug, Clone, Default)]
struct File {
    text: Option<String>,
    good: Vec<Placed>,
    complaints: Vec<Complaint>,
}

/// The files of a directory, as last read.
#[derive(Debug)]
pub(crate) struct Files {
    directory: PathBuf,
    files: BTreeMap<String, File>,
    /// Why the directory itself cannot be read, if it cannot.
    unreadable: Option<Complaint>,
}

/// All that the files say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    /// The objects, less this node's own addresses.
    pub(crate) cluster: Cluster,
    /// What is wrong, in the order of files and lines.
    pub(crate) complaints: BTreeSet<Complaint>,
}

impl Files {
    /// The files of `directory`, none of them read yet.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, files: BTreeMap::new(), unreadable: None }
    }

    /// Looks at every file again; true when anything is new.
    pub(crate) fn refresh(&mut self) -> bool {
        let names = match names(&self.directory) {
            Ok(names) => names,
            Err(error) => {
                let file = self.directory.display().to_string();
                let text = format!("the directory cannot be read: {error}");
                let complaint = Complaint { file, line: 0, field: String::new(), text };
                return self.unreadable.replace(complaint.clone()) != Some(complaint);
            }
        };
        let mut news = self.unreadable.take().is_some();
        let before = self.files.len();
        self.files.retain(|name, _| names.contains(name));
        news |= self.files.len() != before;
        for name in names {
            let text = read_text(&self.directory.join(&name));
            news |= self.files.entry(name.clone()).or_default().take_in(&name, text);
        }
        news
    }

    /// Everything that the files say together. Of two objects with the same name the first counts, in the order of
    /// files and lines.
    pub(crate) fn say(&self) -> Said {
        let mut said = Said::default();
        said.complaints.extend(self.unreadable.clone());
        let mut seen: BTreeMap<(&'static str, String), String> = BTreeMap::new();
        for (name, file) in &self.files {
            said.complaints.extend(file.complaints.iter().cloned());
            for placed in &file.good {
                let place = format!("{name}:{}", placed.line);
                match seen.entry(placed.object.identity()) {
                    std::collections::btree_map::Entry::Vacant(free) => {
                        free.insert(place);
                        placed.object.clone().put(&mut said.cluster);
                    }
                    std::collections::btree_map::Entry::Occupied(first) => {
                        let (kind, object) = first.key();
                        let text =
                            format!("{kind} {object} is already in {}: this one is ignored", first.get());
                        said.complaints.insert(Complaint {
                            file: name.clone(),
                            line: placed.line,
                            field: "metadata.name".to_owned(),
                            text,
                        });
                    }
                }
            }
        }
        said
    }
}

impl File {
    /// Takes over what a file says now; true when anything is new.
    fn take_in(&mut self, name: &str, text: Result<String, String>) -> bool {
        let before = self.complaints.clone();
        match text {
            Ok(text) if self.text.as_ref() == Some(&text) => false,
            Ok(text) => {
                match parse(name, &text) {
                    Ok(good) => (self.good, self.complaints) = (good, Vec::new()),
                    Err(complaints) => self.complaints = complaints,
                }
                self.text = Some(text);
                true
            }
            Err(error) => {
                let text = format!("cannot be read: {error}");
                self.text = None;
                self.complaints =
                    vec![Complaint { file: name.to_owned(), line: 0, field: String::new(), text }];
                self.complaints != before
            }
        }
    }
}

/// The names of the files that count: YAML, neither hidden nor an editor's.
fn names(directory: &Path) -> std::io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        // Symbolic links are followed: that is how a mounted ConfigMap looks.
        if counts(&name) && std::fs::metadata(entry.path()).map_or(true, |metadata| metadata.is_file()) {
            names.insert(name);
        }
    }
    Ok(names)
}

fn counts(name: &str) -> bool {
    let yaml = name.ends_with(".yaml") || name.ends_with(".yml");
    yaml && !name.starts_with(['.', '#', '~'])
}

fn read_text(path: &Path) -> Result<String, String> {
    let bytes = read_bounded(path, FILE_LIMIT).map_err(|error| error.to_string())?;
    let bytes = bytes.ok_or_else(|| "it is a link to nothing".to_owned())?;
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())
}

/// The objects of a file, or everything that is wrong with it.
fn parse(file: &str, text: &str) -> Result<Vec<Placed>, Vec<Complaint>> {
    let complain = |place: Place, field: &str, text: String| Complaint {
        file: file.to_owned(),
        line: place.line,
        field: field.to_owned(),
        text,
    };
    let documents = yaml::read(text).map_err(|(place, text)| vec![complain(place, "", text)])?;
    let mut good = Vec::new();
    let mut complaints = Vec::new();
    for tree in &documents {
        match object(tree) {
            Ok(object) => good.push(Placed { object, line: tree.place.line }),
            Err(faults) => {
                let faults = faults.into_iter();
                complaints.extend(faults.map(|(field, text)| complain(tree.locate(&field), &field, text)));
            }
        }
    }
    if complaints.is_empty() { Ok(good) } else { Err(complaints) }
}

/// A field and what is wrong with it.
type Fault = (String, String);

fn object(tree: &Tree) -> Result<Object, Vec<Fault>> {
    let fault = |field: &str, text: String| vec![(field.to_owned(), text)];
    let Some(kind) = tree.text("kind") else {
        return Err(fault("kind", format!("is missing: {KINDS} are read here")));
    };
    let version = match kind {
        "Secret" => "v1",
        _ => concat!("manx.dev", "/", "v1alpha1"),
    };
    if tree.text("apiVersion") != Some(version) {
        return Err(fault("apiVersion", format!("must be {version} for kind {kind}")));
    }
    let json = match kind {
        "Secret" => tree.to_json(),
        kind => checked(kind, tree)?,
    };
    match kind {
        "IPPool" => typed(json).map(Object::Pool),
        "BGPConfiguration" => typed(json).map(Object::Configuration),
        "BGPPeer" => typed(json).map(Object::Peer),
        "BGPFilter" => typed(json).map(Object::Filter),
        "IPBlock" => typed(json).map(Object::Block),
        "NodeNetwork" => typed(json).map(Object::Network),
        _ => typed(json).map(Object::Secret),
    }
}

/// The object with its defaults, if the API server would let it in.
fn checked(kind: &str, tree: &Tree) -> Result<Value, Vec<Fault>> {
    let Some(schema) = schemas().get(kind) else {
        return Err(vec![("kind".to_owned(), format!("{kind} is not read here: {KINDS} are"))]);
    };
    let mut json = tree.to_json();
    let unknown = schema.prepare(&mut json).into_iter();
    let mut faults: Vec<Fault> = unknown.map(|field| (field, format!("{kind} has no such field"))).collect();
    faults.extend(schema.violations(&json, None).into_iter().map(|error| {
        let field = if error.field == "<nil>" { String::new() } else { error.field };
        (field, plain(&error.message).to_owned())
    }));
    if faults.is_empty() { Ok(json) } else { Err(faults) }
}

/// What a rule says, without the type of the value that broke it.
fn plain(message: &str) -> &str {
    let rest = message.strip_prefix("Invalid value: \"").and_then(|rest| rest.split_once("\": "));
    match rest {
        Some(("object" | "string" | "array" | "integer" | "boolean", text)) => text,
        _ => message,
    }
}

/// What the API server would check, by kind.
fn schemas() -> &'static BTreeMap<String, Schema> {
    static SCHEMAS: OnceLock<BTreeMap<String, Schema>> = OnceLock::new();
    SCHEMAS.get_or_init(|| {
        let all = manx_api::crds().into_iter().filter_map(|crd| {
            let source = crd.spec.versions.first()?.schema.as_ref()?.open_api_v3_schema.as_ref()?;
            let source = serde_json::to_value(source).ok()?;
            Some((crd.spec.names.kind.clone(), Schema::compile(&source).ok()?))
        });
        all.collect()
    })
}

fn typed<K: DeserializeOwned + kube::Resource>(json: Value) -> Result<K, Vec<Fault>> {
    let object: K = serde_json::from_value(json).map_err(|error| vec![(String::new(), error.to_string())])?;
    if object.meta().name.as_deref().unwrap_or_default().is_empty() {
        return Err(vec![("metadata.name".to_owned(), "is missing".to_owned())]);
    }
    Ok(object)
}

impl Object {
    /// Kind and name: no two objects have both in common.
    fn identity(&self) -> (&'static str, String) {
        match self {
            Self::Pool(object) => ("IPPool", object.name_any()),
            Self::Configuration(object) => ("BGPConfiguration", object.name_any()),
            Self::Peer(object) => ("BGPPeer", object.name_any()),
            Self::Filter(object) => ("BGPFilter", object.name_any()),
            Self::Block(object) => ("IPBlock", object.name_any()),
            Self::Network(object) => ("NodeNetwork", object.name_any()),
            Self::Secret(object) => {
                ("Secret", format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any()))
            }
        }
    }

    fn put(self, cluster: &mut Cluster) {
        fn add<K: kube::Resource + Clone>(objects: &mut Objects<K>, object: K) {
            Arc::make_mut(objects).insert(object.name_any(), Arc::new(object));
        }
        match self {
            Self::Pool(object) => add(&mut cluster.pools, object),
            Self::Configuration(object) => add(&mut cluster.configurations, object),
            Self::Peer(object) => add(&mut cluster.peers, object),
            Self::Filter(object) => add(&mut cluster.filters, object),
            Self::Network(object) => add(&mut cluster.networks, object),
            Self::Block(object) => {
                if let Ok(block) = BlockId::new(object.spec.cidr.network()) {
                    Arc::make_mut(&mut cluster.blocks).insert(block, NodeName::new(object.spec.node));
                }
            }
            Self::Secret(object) => {
                let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
                let name = SecretName { namespace, name: object.name_any() };
                Arc::make_mut(&mut cluster.secrets).insert(name, secret::read(object));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: &str =
        "apiVersion: manx.dev/v1alpha1\nkind: IPPool\nmetadata: {name: pods}\nspec: {cidr: 10.244.0.0/16}\n";
    const BLOCK: &str = "apiVersion: manx.dev/v1alpha1\nkind: IPBlock\nmetadata: {name: 10-244-3-64-26}\nspec: {cidr: 10.244.3.64/26, node: node1, pool: pods}\n";

    struct Scene {
        directory: tempfile::TempDir,
        files: Files,
    }

    impl Scene {
        fn new() -> Self {
            let directory = tempfile::tempdir().expect("a directory");
            let files = Files::new(directory.path().to_owned());
            Self { directory, files }
        }

        fn write(&self, name: &str, text: &str) -> &Self {
            std::fs::write(self.directory.path().join(name), text).expect("written");
            self
        }

        fn say(&mut self) -> Said {
            self.files.refresh();
            self.files.say()
        }
    }

    fn lines(said: &Said) -> Vec<String> {
        said.complaints.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn objects_come_from_all_documents_of_all_yaml_files() {
        let mut scene = Scene::new();
        scene.write("a.yaml", &format!("{POOL}---\n{BLOCK}")).write("b.yml", "# nothing yet\n");
        scene
            .write(".hidden.yaml", "broken: [")
            .write("notes.txt", "broken: [")
            .write("a.yaml~", "broken: [");
        let said = scene.say();
        assert_eq!(lines(&said), [""; 0]);
        assert_eq!(said.cluster.pools.len(), 1);
        assert_eq!(said.cluster.blocks[&"10.244.3.64/26".parse().expect("a block")], NodeName::from("node1"));
        assert!(!scene.files.refresh(), "nothing is new");
    }

    #[test]
    fn a_broken_file_keeps_what_it_said_before_and_is_told_by_line() {
        let mut scene = Scene::new();
        scene.write("pool.yaml", POOL);
        scene.say();
        scene.write("pool.yaml", &POOL.replace("10.244.0.0/16", "10.244.0.1/16"));
        let said = scene.say();
        assert_eq!(said.cluster.pools.len(), 1);
        let told = lines(&said);
        assert!(
            told[0].starts_with("pool.yaml:4: spec.cidr: must be a network in CIDR notation"),
            "{told:?}"
        );
        scene.write("pool.yaml", POOL);
        assert_eq!(lines(&scene.say()), [""; 0]);
    }

    #[test]
    fn whatever_the_api_server_would_refuse_is_told_by_field_and_line() {
        const PEER: &str = "apiVersion: manx.dev/v1alpha1\nkind: BGPPeer\nmetadata:\n  name: tor\nspec:\n";
        let rows = [
            ("  asNumber: 65000\n", "a.yaml:5: spec: exactly one of peerIP"),
            ("  peerIP: 192.0.2.1\n", "a.yaml:5: spec.asNumber: Required value"),
            (
                "  peerIP: 192.0.2.1\n  asNumber: 65000\n  passiv: true\n",
                "a.yaml:8: spec.passiv: BGPPeer has no such field",
            ),
            ("  peerIP: 192.0.2.1\n  asNumber: 65000\n  passive: yes\n", "a.yaml:8: spec.passive: "),
            (
                "  peerIP: 192.0.2.1\n  asNumber: 65000\n  holdTimeSeconds: 2\n",
                "a.yaml:5: spec: holdTimeSeconds must be 0",
            ),
            (
                "  peerIP: 192.0.2.1\n  asNumber: 65000\n  nodeSelector:\n    matchExpressions:\n    - key: a\n      operator: Is\n",
                "a.yaml:11: spec.nodeSelector.matchExpressions[0].operator: Unsupported value",
            ),
        ];
        for (text, expected) in rows {
            let mut scene = Scene::new();
            scene.write("a.yaml", &format!("{PEER}{text}"));
            let told = lines(&scene.say());
            assert!(told.iter().any(|line| line.starts_with(expected)), "{expected}: {told:?}");
        }
    }

    #[test]
    fn a_file_that_goes_takes_its_objects_with_it() {
        let mut scene = Scene::new();
        scene.write("pool.yaml", POOL);
        assert_eq!(scene.say().cluster.pools.len(), 1);
        std::fs::remove_file(scene.directory.path().join("pool.yaml")).expect("removed");
        assert_eq!(scene.say().cluster.pools.len(), 0);
    }

    #[test]
    fn of_two_objects_with_one_name_the_first_counts_and_both_are_named() {
        let mut scene = Scene::new();
        scene.write("a.yaml", POOL).write("b.yaml", &format!("\n{}", POOL.replace("10.244", "10.245")));
        let said = scene.say();
        assert_eq!(said.cluster.pools["pods"].spec.cidr.to_string(), "10.244.0.0/16");
        assert_eq!(
            lines(&said),
            ["b.yaml:2: metadata.name: IPPool pods is already in a.yaml:1: this one is ignored"]
        );
    }

    #[test]
    fn what_is_not_read_here_is_named() {
        let mut scene = Scene::new();
        scene.write("a.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n");
        scene.write("b.yaml", "\nname: x\n");
        let told = lines(&scene.say());
        assert!(told[0].starts_with("a.yaml:1: apiVersion: must be manx.dev/v1alpha1"), "{told:?}");
        assert!(told[1].starts_with("b.yaml:2: kind: is missing"), "{told:?}");
    }

    #[test]
    fn the_examples_make_one_session_with_the_router_and_announce_a_block_of_each_family() {
        let me = NodeName::from("host1");
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/objects");
        let mut files = Files::new(directory.into());
        files.refresh();
        let mut said = files.say();
        assert_eq!(lines(&said), [""; 0]);
        let (node, unclear) =
            super::super::own::node(said.cluster.networks.get("host1").map(|it| &**it), &me, &[]);
        assert_eq!(unclear, [""; 0]);
        said.cluster.node = node.map(Arc::new);
        let intent = crate::node::intent::Intent::new(&said.cluster, &me);
        assert_eq!(intent.problems.iter().map(ToString::to_string).collect::<Vec<_>>(), [""; 0]);
        let bgp = intent.bgp.expect("addresses are known");
        assert_eq!(bgp.peers.keys().map(ToString::to_string).collect::<Vec<_>>(), ["peer/tor"]);
        let tor = bgp.peers.values().next().expect("the router");
        assert_eq!((tor.transport.min_ttl, tor.transport.key.is_some()), (Some(255), true));
        assert_eq!(tor.config.families.len(), 2);
        let owned = said.cluster.blocks.keys().copied().collect();
        let origins = intent.announcement.origins(&owned);
        assert_eq!(origins.len(), 2);
        assert_eq!(origins.values().filter(|it| !it.communities.is_empty()).count(), 1);
    }
}
