//! Whatever a fuzzer ever found is fed to the targets again.

use std::path::Path;

/// Runs a target on every file of its corpus. The name of the one that fails is printed ahead of it.
#[expect(clippy::disallowed_methods, reason = "the targets see no file, their replay does")]
fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    files.sort();
    assert!(files.len() > 10, "{} is nearly empty", folder.display());
    for file in files {
        let octets = std::fs::read(&file).expect("a readable file");
        if std::panic::catch_unwind(|| target(&octets)).is_err() {
            panic!("{name} fails on {}", file.display());
        }
    }
}

#[test]
fn any_octets_are_decoded_or_refused() {
    replay("decode", manx_fuzz::decode);
}

#[test]
fn a_session_survives_peers_that_keep_no_rule() {
    replay("session", manx_fuzz::session);
}

#[test]
fn whole_nodes_keep_every_invariant_whatever_befalls_them() {
    replay("node", manx_fuzz::node);
}

#[test]
fn speakers_of_ours_converge_whatever_happens_between_them() {
    replay("speaker", manx_fuzz::speaker);
}
