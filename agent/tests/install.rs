//! The installer as a process: what lies in the directory afterwards, whatever lay there before.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const AGENT: &str = env!("CARGO_BIN_EXE_manx-agent");

struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("bin")).expect("made");
        Self { dir }
    }

    fn bin(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    fn target(&self) -> PathBuf {
        self.bin().join("manx-cni")
    }

    /// A plugin with these octets, as the image brings it.
    fn plugin(&self, octets: &[u8]) -> PathBuf {
        let image = self.dir.path().join("image");
        std::fs::create_dir_all(&image).expect("made");
        let plugin = image.join("manx-cni");
        std::fs::write(&plugin, octets).expect("written");
        plugin
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.bin()).expect("read");
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name")).collect()
    }
}

fn installer(bin_dir: &Path, plugin: &Path) -> Command {
    let mut command = Command::new(AGENT);
    command.arg("install").arg("--bin-dir").arg(bin_dir).arg("--plugin").arg(plugin);
    command
}

fn install(bin_dir: &Path, plugin: &Path) -> Output {
    installer(bin_dir, plugin).output().expect("run")
}

fn refusal(output: &Output) -> String {
    assert!(!output.status.success(), "it must say no");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_plugin_is_there_and_can_be_run_whatever_the_umask() {
    let folder = Folder::new();
    let plugin = folder.plugin(b"one");
    let output = Command::new("sh")
        .args(["-c", "umask 077; exec \"$@\"", "sh", AGENT, "install", "--bin-dir"])
        .arg(folder.bin())
        .arg("--plugin")
        .arg(&plugin)
        .output()
        .expect("run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read(folder.target()).expect("read"), b"one");
    assert_eq!(std::fs::metadata(folder.target()).expect("there").permissions().mode() & 0o7777, 0o755);
    assert_eq!(folder.names(), ["manx-cni"]);
}

#[test]
fn the_same_plugin_is_left_alone_and_another_replaces_it() {
    let folder = Folder::new();
    let inode = || std::fs::metadata(folder.target()).expect("there").ino();
    assert!(install(&folder.bin(), &folder.plugin(b"one")).status.success());
    let first = inode();
    assert!(install(&folder.bin(), &folder.plugin(b"one")).status.success());
    assert_eq!(inode(), first, "nothing was to be done");
    assert!(install(&folder.bin(), &folder.plugin(b"two")).status.success());
    assert_eq!(std::fs::read(folder.target()).expect("read"), b"two");
    assert_ne!(inode(), first, "the old file must go on as it is for those who run it");
}

#[test]
fn a_plugin_that_nobody_may_run_is_made_whole() {
    let folder = Folder::new();
    let plugin = folder.plugin(b"one");
    assert!(install(&folder.bin(), &plugin).status.success());
    std::fs::set_permissions(folder.target(), Permissions::from_mode(0o600)).expect("set");
    assert!(install(&folder.bin(), &plugin).status.success());
    assert_eq!(std::fs::metadata(folder.target()).expect("there").permissions().mode() & 0o7777, 0o755);
}

#[test]
fn what_a_killed_installation_left_behind_is_gone_after_the_next() {
    let folder = Folder::new();
    std::fs::write(folder.bin().join(".manx-cni.new"), b"hal").expect("written");
    let plugin = folder.plugin(b"one");
    assert!(install(&folder.bin(), &plugin).status.success());
    assert_eq!(folder.names(), ["manx-cni"]);

    std::fs::write(folder.bin().join(".manx-cni.new"), b"hal").expect("written");
    assert!(install(&folder.bin(), &plugin).status.success(), "also when there is nothing to do");
    assert_eq!(folder.names(), ["manx-cni"]);
}

#[test]
fn what_is_in_the_way_is_named_and_stays() {
    let folder = Folder::new();
    let plugin = folder.plugin(b"one");
    let said = refusal(&install(&folder.dir.path().join("missing"), &plugin));
    assert!(said.contains("missing") && said.contains("mount the directory"), "{said}");
    let said = refusal(&install(&folder.bin(), &folder.dir.path().join("no-plugin")));
    assert!(said.contains("no-plugin"), "{said}");
    std::fs::create_dir(folder.target()).expect("made");
    let said = refusal(&install(&folder.bin(), &plugin));
    assert!(said.contains("is a directory: remove it"), "{said}");
    assert!(folder.target().is_dir());
}

/// Runs the installer where `mount` was done to the directory, which only it sees.
fn install_where(folder: &Folder, plugin: &Path, mount: &str) -> Output {
    let script = format!("mount {mount} && exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh", AGENT, "install", "--bin-dir"]);
    command.arg(folder.bin()).arg("--plugin").arg(plugin).env("BIN", folder.bin());
    command.output().expect("run")
}

#[test]
fn a_directory_that_takes_nothing_is_said_with_what_to_do() {
    let folder = Folder::new();
    let plugin = folder.plugin(&vec![1; 200_000]);
    let said = refusal(&install_where(&folder, &plugin, "-t tmpfs -o size=64k none \"$BIN\""));
    assert!(said.contains("make room on the node"), "{said}");
    std::fs::write(folder.target(), b"old").expect("written");
    let said = refusal(&install_where(&folder, &plugin, "--bind -o ro \"$BIN\" \"$BIN\""));
    assert!(said.contains("mount it writable"), "{said}");
    assert_eq!(std::fs::read(folder.target()).expect("read"), b"old");
}

#[test]
fn calls_never_meet_half_a_plugin_while_it_is_replaced() {
    let folder = Folder::new();
    // The same program twice, once with something behind it.
    let program = std::fs::read(AGENT).expect("read");
    let one = folder.plugin(&program);
    let other = folder.dir.path().join("manx-cni");
    std::fs::write(&other, [&program[..], b"longer"].concat()).expect("written");
    assert!(install(&folder.bin(), &one).status.success());
    let (done, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let output = Command::new(folder.target()).arg("--version").output().expect("it runs");
                    assert!(output.status.success());
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 0..12 {
            let plugin = if round % 2 == 0 { &other } else { &one };
            let mut installs: Vec<_> =
                (0..2).map(|_| installer(&folder.bin(), plugin).spawn().expect("started")).collect();
            installs.iter_mut().for_each(|install| assert!(install.wait().expect("ended").success()));
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(calls.load(Ordering::Relaxed) > 0);
    assert_eq!(folder.names(), ["manx-cni"]);
}

#[test]
fn a_killed_installation_leaves_the_old_plugin_or_the_new_one() {
    let folder = Folder::new();
    let (old, new) = (vec![1; 4 << 20], vec![2; 4 << 20]);
    let plugin = folder.plugin(&old);
    assert!(install(&folder.bin(), &plugin).status.success());
    folder.plugin(&new);
    for micros in [200, 2_000, 4_000, 6_000, 8_000, 12_000, 20_000] {
        let mut running = installer(&folder.bin(), &plugin).spawn().expect("started");
        std::thread::sleep(std::time::Duration::from_micros(micros));
        running.kill().expect("killed");
        running.wait().expect("ended");
        let found = std::fs::read(folder.target()).expect("read");
        assert!(found == old || found == new, "a part of a plugin after {micros} µs");
    }
    assert!(install(&folder.bin(), &plugin).status.success());
    assert_eq!(
        (std::fs::read(folder.target()).expect("read"), folder.names()),
        (new, vec!["manx-cni".to_owned()])
    );
}
