//! Configurations of container networks on this machine, and where its container runtime looks for them.

use std::path::{Path, PathBuf};

use manx_facts::host::{CniFiles, ConfFile};
use serde_json::Value;

const CONF_DIR: &str = "/etc/cni/net.d";
const BIN_DIR: &str = "/opt/cni/bin";
/// The most that is read of a file.
const LIMIT: u64 = 1 << 20;

/// Reads them below `root`; `None` if there are neither configurations nor a runtime to be seen.
pub(super) fn read(root: &str) -> Option<CniFiles> {
    let folder = |path: &str| PathBuf::from(format!("{root}{path}"));
    // In the agent's pod the two folders have places of their own.
    let conf = [folder(CONF_DIR), PathBuf::from("/host/conf")].into_iter().find(|path| path.is_dir());
    let bin = [folder(BIN_DIR), PathBuf::from("/host/bin")].into_iter().find(|path| path.is_dir());
    let (runtime_conf_dir, runtime_bin_dir) = runtime(root);
    if conf.is_none() && bin.is_none() && runtime_conf_dir.is_none() {
        return None;
    }
    let mut files = Vec::new();
    for name in conf.as_deref().map(names).unwrap_or_default() {
        let known = [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end));
        if known && let Some(folder) = &conf {
            files.push(file(folder, name));
        }
    }
    let plugins = bin.as_deref().map(names).unwrap_or_default();
    Some(CniFiles { runtime_conf_dir, runtime_bin_dir, files, plugins })
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn file(folder: &Path, file: String) -> ConfFile {
    let text = crate::shell::record::read_bounded(&folder.join(&file), LIMIT);
    let parsed = text.map_err(|error| format!("{error:#}")).and_then(|bytes| {
        serde_json::from_slice(&bytes.unwrap_or_default()).map_err(|error| error.to_string())
    });
    let list: Value = match parsed {
        Ok(list) => list,
        Err(error) => return ConfFile { file, error: Some(error), ..ConfFile::default() },
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let plugins = match list["plugins"].as_array() {
        Some(plugins) => plugins.iter().map(|plugin| text(&plugin["type"])).collect(),
        None => vec![text(&list["type"])],
    };
    ConfFile { file, name: text(&list["name"]), plugins, error: None }
}

/// Where the container runtime looks for configurations and plugins, by its own configuration.
fn runtime(root: &str) -> (Option<String>, Option<String>) {
    let of = |path: &str| std::fs::read_to_string(format!("{root}{path}")).ok();
    let containerd = of("/etc/containerd/config.toml");
    let crio = of("/etc/crio/crio.conf");
    let found = |keys: [(&Option<String>, &str); 3]| {
        keys.into_iter().find_map(|(text, key)| assigned(text.as_deref()?, key))
    };
    (
        found([(&containerd, "conf_dir"), (&crio, "network_dir"), (&None, "")]),
        found([(&containerd, "bin_dir"), (&containerd, "bin_dirs"), (&crio, "plugin_dirs")]),
    )
}

/// The first text that TOML assigns to a key, whatever its table: `key = "text"` or `key = ["text", …]`.
fn assigned(toml: &str, key: &str) -> Option<String> {
    toml.lines().find_map(|line| {
        let (found, value) = line.split_once('=')?;
        let quoted = value.trim().trim_start_matches('[').trim();
        let quote = quoted.chars().next().filter(|letter| ['"', '\''].contains(letter))?;
        (found.trim() == key).then(|| quoted[1..].split(quote).next().unwrap_or_default().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_read_in_their_order_with_the_types_of_their_plugins() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("etc/cni/net.d");
        std::fs::create_dir_all(&folder).expect("made");
        std::fs::write(folder.join("20-old.conf"), r#"{"name": "old", "type": "bridge"}"#).expect("written");
        let list = r#"{"name": "cbr0", "plugins": [{"type": "flannel"}, {"type": "portmap"}]}"#;
        std::fs::write(folder.join("10-flannel.conflist"), list).expect("written");
        std::fs::write(folder.join("30-x.conflist"), "{").expect("written");
        std::fs::write(folder.join("calico-kubeconfig"), "token").expect("written");
        let found = read(&root.path().display().to_string()).expect("a folder");
        let shown: Vec<_> = found
            .files
            .iter()
            .map(|file| (file.file.as_str(), file.name.as_str(), file.plugins.join("+")))
            .collect();
        assert_eq!(
            shown,
            [
                ("10-flannel.conflist", "cbr0", "flannel+portmap".to_owned()),
                ("20-old.conf", "old", "bridge".to_owned()),
                ("30-x.conflist", "", String::new()),
            ]
        );
        assert!(found.files[2].error.is_some());
    }

    #[test]
    fn the_runtimes_folders_are_those_of_its_configuration() {
        let toml = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\n  bin_dir = \"/usr/lib/cni\"\n  \
                    conf_dir = '/var/cni'\n";
        assert_eq!(assigned(toml, "bin_dir").as_deref(), Some("/usr/lib/cni"));
        assert_eq!(assigned(toml, "conf_dir").as_deref(), Some("/var/cni"));
        assert_eq!(assigned("plugin_dirs = [\"/a\", \"/b\"]", "plugin_dirs").as_deref(), Some("/a"));
        assert_eq!(assigned(toml, "network_dir"), None);
    }
}
