//! Takes everything of Manx off a node: what the container runtime reads, what the kernel holds, what was recorded.
//!
//! Pods that still run keep their links, with the routes to them and the guards of their links, and then the plugin
//! stays as well: without it the runtime could not end them. Once they are gone, uninstalling again takes the rest.
//! Tracked connections stay: they are others' as well.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use anyhow::{Context as _, bail};
use manx_kernel::model::{Forward, Op, OpError, PROTOCOL};
use manx_kernel::names::{DOOMED_GROUP, LINK_GROUP, parse_alias};
use manx_kernel::netlink::guard::{Gates, Guard};
use manx_kernel::netlink::inspect::{self, End};
use manx_kernel::netlink::nat::Nat;
use manx_kernel::netlink::socket::Socket;
use manx_kernel::netlink::{Kernel, links};
use manx_kernel::sysctl;

use super::host;
use super::install::explained;
use super::options::Uninstall;
use super::record::RunDir;

/// The plugin's file.
const PLUGIN: &str = "manx-cni";

/// Uninstalls. Nothing of ours that is missing already is an error, so it can be done again.
///
/// # Errors
/// When an agent runs here, when running pods keep something, or when something of ours cannot be removed; the rest is
/// gone all the same.
pub fn uninstall(options: &Uninstall) -> anyhow::Result<()> {
    sysctl::reach_by(&options.proc_sys_net);
    // No agent can start while this is held.
    let _lock = options.run_dir.exists().then(|| RunDir::open(&options.run_dir)).transpose()?;
    let mut visit = Visit::default();
    let conflist =
        options.conflist.file_name().context("--conflist names no file")?.to_string_lossy().into_owned();
    visit.file("conflist", &options.cni_conf_dir.join(&conflist));
    visit.file("conflist", &options.cni_conf_dir.join(format!(".{conflist}.new")));
    let pods = visit.kernel(options.force);
    if pods.is_empty() {
        let (put_back, left) = host::put_back(&options.run_dir);
        visit.removed("settings put back", put_back);
        visit.left.extend(left);
        visit.file("plugin", &options.cni_bin_dir.join(PLUGIN));
        visit.file("plugin", &options.cni_bin_dir.join(format!(".{PLUGIN}.new")));
        visit.directory(&options.run_dir);
    } else {
        visit.failed.push(format!(
            "{} links of running pods ({}), with the routes to them, the plugin, {} and the settings of the kernel: end \
             these pods (kubectl drain) and uninstall again, or cut them off with --force",
            pods.len(),
            pods.into_iter().take(5).collect::<Vec<_>>().join(", "),
            options.run_dir.display()
        ));
    }
    visit.end()
}

/// What was done, and what was not.
#[derive(Debug, Default)]
struct Visit {
    /// What stays, and why.
    left: Vec<String>,
    /// What should not have stayed.
    failed: Vec<String>,
}

impl Visit {
    fn removed(&self, what: &str, which: Vec<String>) {
        if !which.is_empty() {
            tracing::info!(count = which.len(), "removed: {what}: {}", which.join(", "));
        }
    }

    fn fail(&mut self, error: &anyhow::Error) {
        self.failed.push(format!("{error:#}"));
    }

    /// Takes the result of a step, and goes on without it if it failed.
    fn take<T: Default>(&mut self, result: anyhow::Result<T>) -> T {
        result.unwrap_or_else(|error| {
            self.fail(&error);
            T::default()
        })
    }

    fn file(&mut self, what: &str, path: &Path) {
        match std::fs::remove_file(path) {
            Ok(()) => self.removed(what, vec![path.display().to_string()]),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.fail(&explained(error, &format!("removing {}", path.display()))),
        }
    }

    /// Empties a directory, and removes it unless something is mounted there.
    fn directory(&mut self, path: &Path) {
        let Ok(entries) = std::fs::read_dir(path) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            let removed = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => std::fs::remove_dir_all(&path),
                false => std::fs::remove_file(&path),
            };
            if let Err(error) = removed {
                self.fail(&explained(error, &format!("removing {}", path.display())));
            }
        }
        match std::fs::remove_dir(path) {
            Ok(()) => self.removed("run directory", vec![path.display().to_string()]),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                self.left.push(format!("{}: it is empty, and mounted into this container", path.display()));
            }
            Err(error) => self.fail(&explained(error, &format!("removing {}", path.display()))),
        }
    }

    /// Removes what the kernel has; gives the links that stay.
    fn kernel(&mut self, force: bool) -> Vec<String> {
        let ends = Socket::route().and_then(|mut socket| inspect::ends(&mut socket));
        let ends: Vec<End> = self.take(ends.context("reading the links"));
        let ours = ends.iter().filter(|end| matches!(end.group, LINK_GROUP | DOOMED_GROUP));
        let (stay, go): (Vec<&End>, Vec<&End>) = ours.partition(|end| !force && is_of_a_pod(end));
        let indexes: BTreeSet<u32> = stay.iter().map(|end| end.index).collect();
        let routes = remove_routes(&indexes);
        for (what, which) in self.take(routes) {
            self.removed(what, which);
        }
        let removed = remove_links(&go);
        let removed = self.take(removed);
        self.removed("links", removed);
        let stay: Vec<String> = stay.into_iter().map(|end| end.name.clone()).collect();
        let tables = remove_tables(&stay);
        let tables = self.take(tables);
        self.removed("tables of nftables", tables);
        stay
    }

    fn end(self) -> anyhow::Result<()> {
        for left in &self.left {
            tracing::warn!("not removed: {left}");
        }
        if !self.failed.is_empty() {
            bail!("not everything is removed: {}", self.failed.join("; "));
        }
        tracing::info!(left = self.left.len(), "Manx is off this node");
        Ok(())
    }
}

/// Not one that was left half made or is on its way out.
fn is_of_a_pod(end: &End) -> bool {
    end.group == LINK_GROUP && end.alias.as_deref().is_some_and(|alias| parse_alias(alias).is_some())
}

/// Removes our routes, but for those to these links, and our next-hop objects.
fn remove_routes(stay: &BTreeSet<u32>) -> anyhow::Result<BTreeMap<&'static str, Vec<String>>> {
    let mut kernel = Kernel::open().context("opening a netlink socket")?;
    let dump = kernel.dump().context("reading the routes")?;
    let to_pods = |forward: &Forward| matches!(forward, Forward::Link(index) if stay.contains(index));
    let routes = dump.routes.iter().filter(|route| !to_pods(&route.forward)).map(|route| route.key);
    let objects = dump.nexthops.iter().flatten().filter(|object| object.protocol == PROTOCOL);
    // Groups are made after what is in them.
    let mut objects: Vec<u32> = objects.map(|object| object.id).collect();
    objects.sort_unstable_by(|one, other| other.cmp(one));
    let mut removed = BTreeMap::from([("routes", Vec::new()), ("next-hop objects", Vec::new())]);
    let routes = routes.map(|key| ("routes", key.dst.to_string(), Op::DeleteRoute { key }));
    let objects =
        objects.into_iter().map(|id| ("next-hop objects", id.to_string(), Op::DeleteNexthop { id }));
    let all: Vec<_> = routes.chain(objects).collect();
    let ops: Vec<Op> = all.iter().map(|(_, _, op)| op.clone()).collect();
    for ((what, name, _), result) in all.iter().zip(kernel.apply(&ops).context("removing routes")?) {
        match result {
            Ok(()) => removed.entry(what).or_default().push(name.clone()),
            // The object went with its last member, or the route with its object.
            Err(OpError::Missing) => {}
            Err(error) => return Err(error).with_context(|| format!("removing {name}")),
        }
    }
    Ok(removed)
}

fn remove_links(go: &[&End]) -> anyhow::Result<Vec<String>> {
    if go.is_empty() {
        return Ok(Vec::new());
    }
    let mut socket = Socket::route().context("opening a netlink socket")?;
    for end in go {
        links::doom(&mut socket, end.index).with_context(|| format!("taking {} down", end.name))?;
    }
    links::remove_doomed(&mut socket).context("removing links")?;
    Ok(go.iter().map(|end| end.name.clone()).collect())
}

/// Removes our tables, but for the guards of these links.
fn remove_tables(stay: &[String]) -> anyhow::Result<Vec<String>> {
    let mut removed = manx_kernel::netlink::guard::tables().context("looking for tables of nftables")?;
    Nat::open().and_then(|mut nat| nat.remove()).context("removing the NAT tables")?;
    Guard::open().and_then(|mut guard| guard.remove()).context("removing the guard's table")?;
    let Some(mut gates) = Gates::open().context("looking for the guards of links")? else {
        return Ok(removed);
    };
    let tables = gates.handles().context("looking for the guards of links")?;
    for (link, handle) in tables.into_iter().filter(|(link, _)| !stay.contains(link)) {
        if gates.forget(handle).with_context(|| format!("removing the guard of {link}"))? {
            removed.push(format!("netdev manx-{link}"));
        }
    }
    Ok(removed)
}
