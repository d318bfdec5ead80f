//! One look at the conflist and what is around it, and what follows.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;

use super::template::{Fitted, PLUGIN, Template};
use super::{ConflistReport, Places};
use crate::shell::install::{place, sync};
use crate::shell::record::read_bounded;

/// The most that is read of a conflist.
const LIMIT: u64 = 1 << 20;
/// Names that container runtimes read in the directory.
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];
/// The least time between two times that the conflist is put back.
const PAUSE: Duration = Duration::from_secs(1);
/// What that grows to while somebody else keeps removing it.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// After this long without that, the pause is the short one again.
const PEACE: Duration = Duration::from_secs(600);
/// Root's alone: plugins may have secrets in it.
const MODE: u32 = 0o600;

/// Keeps the conflist in place.
pub(super) struct Keeper {
    places: Places,
    target: PathBuf,
    known: ConflistReport,
    /// This node could take pods once: from then on the conflist is kept.
    allowed: bool,
    /// What was in place last.
    last: Option<Value>,
    restored_at: Option<Instant>,
    pause: Duration,
}

impl Keeper {
    pub(super) fn new(places: Places) -> Self {
        let name = places.template.file_name().unwrap_or_default();
        Self {
            target: places.conf_dir.join(name),
            places,
            known: ConflistReport { wanted: true, ..ConflistReport::default() },
            allowed: false,
            last: None,
            restored_at: None,
            pause: PAUSE,
        }
    }

    pub(super) fn known(&self) -> &ConflistReport {
        &self.known
    }

    /// Looks, and writes if need be; `serving`: this node can take pods. Gives when to look again, besides the usual.
    pub(super) fn look(&mut self, serving: bool, now: Instant) -> Option<Instant> {
        self.allowed |= serving;
        let before = self.known.clone();
        let due = match self.tend(now) {
            Ok(due) => {
                self.known.error = None;
                due
            }
            Err(error) => {
                self.known.error = Some(format!("{error:#}"));
                None
            }
        };
        self.known.before = self.earlier();
        self.known.complaints = self.complaints();
        log(&before, &self.known, &self.target);
        due
    }

    fn tend(&mut self, now: Instant) -> anyhow::Result<Option<Instant>> {
        self.known.in_place = false;
        let template = self.template()?;
        anyhow::ensure!(
            self.has(PLUGIN),
            "{PLUGIN} is not in {}: `manx-agent install --bin-dir` puts it there",
            self.places.bin_dir.display()
        );
        let text = read_bounded(&self.target, LIMIT).ok().flatten();
        let found: Option<Value> = text.as_ref().and_then(|bytes| serde_json::from_slice(bytes).ok());
        let fitted = template.fit(found.as_ref(), |plugin| self.has(plugin));
        self.known.missing.clone_from(&fitted.missing);
        if found.as_ref() == Some(&fitted.list) {
            self.known.in_place = true;
            self.last = Some(fitted.list);
            return Ok(None);
        }
        if !self.allowed {
            return Ok(None);
        }
        if self.last.as_ref() == Some(&fitted.list) {
            let allowed_at = self.restored_at.map_or(now, |at| at + self.pause);
            if allowed_at > now {
                return Ok(Some(allowed_at));
            }
            self.write(&fitted)?;
            self.note_restored(text.is_some(), now);
        } else {
            self.write(&fitted)?;
            let path = self.target.display();
            tracing::info!(%path, "the conflist is written: the container runtime may start pods");
        }
        self.known.in_place = true;
        self.last = Some(fitted.list);
        Ok(None)
    }

    fn note_restored(&mut self, changed: bool, now: Instant) {
        let peace = self.restored_at.is_none_or(|at| now.duration_since(at) > PEACE);
        self.pause = if peace { PAUSE } else { (self.pause * 2).min(LONGEST_PAUSE) };
        self.restored_at = Some(now);
        self.known.restored_total += 1;
        let how = if changed { "changed" } else { "removed" };
        tracing::warn!(path = %self.target.display(), "somebody {how} the conflist: it is put back");
    }

    fn template(&self) -> anyhow::Result<Template> {
        let path = self.places.template.display();
        let bytes = read_bounded(&self.places.template, LIMIT)
            .map_err(anyhow::Error::from)
            .and_then(|bytes| bytes.context("there is no such file"))
            .with_context(|| format!("reading the template of the conflist, {path}"))?;
        Template::parse(&bytes)
            .with_context(|| format!("the template of the conflist, {path}, cannot be used"))
    }

    /// Whether the node has this plugin.
    fn has(&self, plugin: &str) -> bool {
        // The name of a plugin is no path.
        let named = Path::new(plugin).file_name().is_some_and(|name| name == plugin);
        let found = std::fs::metadata(self.places.bin_dir.join(plugin));
        named && found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    }

    fn write(&self, fitted: &Fitted) -> anyhow::Result<()> {
        let name = self.target.file_name().unwrap_or_default().to_string_lossy();
        let fresh = self.places.conf_dir.join(format!(".{name}.new"));
        // What a killed agent left behind.
        let _absent = std::fs::remove_file(&fresh);
        place(fitted.text().as_bytes(), &fresh, &self.target, MODE)?;
        sync(&self.places.conf_dir)
    }

    /// The configurations that sort before ours: container runtimes take the first.
    fn earlier(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.places.conf_dir) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let ours = self.target.file_name().unwrap_or_default().to_string_lossy();
        let read = |name: &String| {
            let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
            extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
        };
        let mut earlier: Vec<String> = names.filter(|name| **name < *ours).filter(read).collect();
        earlier.sort();
        earlier
    }

    fn complaints(&self) -> Vec<String> {
        let ConflistReport { error, missing, before, .. } = &self.known;
        let name = self.target.file_name().unwrap_or_default().to_string_lossy();
        let mut complaints: Vec<String> = error.iter().cloned().collect();
        if !before.is_empty() {
            complaints.push(format!(
                "the container runtime takes {} in {} before {name}: remove or rename it, unless pods are still to \
                 start with that network",
                before.join(", "),
                self.places.conf_dir.display()
            ));
        }
        if !missing.is_empty() {
            complaints.push(format!(
                "{} not in {}: pods start without what it does (install the reference plugins, or take it out of the \
                 conflist)",
                missing.join(", "),
                self.places.bin_dir.display()
            ));
        }
        complaints
    }
}

fn log(before: &ConflistReport, after: &ConflistReport, target: &Path) {
    for complaint in after.complaints.iter().filter(|complaint| !before.complaints.contains(complaint)) {
        tracing::warn!("{complaint}");
    }
    if !before.complaints.is_empty() && after.complaints.is_empty() {
        tracing::info!(path = %target.display(), "nothing is wrong with the conflist any more");
    }
}
