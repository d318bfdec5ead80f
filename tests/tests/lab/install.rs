//! The plugin is replaced under running calls.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use manx_tests::lab::router::RouterKind;
use manx_tests::lab::runtime::Sandbox;
use manx_tests::lab::{Lab, netns};
use serde_json::Value;

use crate::lab;

/// How often the plugin is replaced.
const INSTALLS: usize = 30;

/// Pods start and end on the node all the time, by a plugin that is another file every moment.
pub(crate) fn replaced_under_calls() -> Result<()> {
    let lab = lab(1, RouterKind::Bird)?;
    let mut runtime = lab.runtime("node1")?;
    let plugin = std::fs::read(runtime.bin_dir.join("manx-cni"))?;
    let agent = runtime.bin_dir.join("manx-agent");
    let dir = lab.dir().join("install");
    // The same program twice, once with something behind it.
    let images = [("one", plugin.clone()), ("other", [&plugin[..], b"longer"].concat())];
    let images = images.map(|(name, octets)| (dir.join(name).join("manx-cni"), octets));
    for (path, octets) in &images {
        std::fs::create_dir_all(path.parent().expect("it has one"))?;
        std::fs::write(path, octets)?;
    }
    runtime.bin_dir = dir.join("bin");
    std::fs::create_dir(&runtime.bin_dir)?;
    let install = |round: usize| {
        let mut command = std::process::Command::new(&agent);
        command
            .arg("install")
            .arg("--bin-dir")
            .arg(&runtime.bin_dir)
            .arg("--plugin")
            .arg(&images[round % 2].0);
        netns::run(&mut command).map(drop)
    };
    install(0)?;
    let (done, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..2)
            .map(|caller| {
                let (lab, runtime, done, calls) = (&lab, &runtime, &done, &calls);
                scope.spawn(move || -> Result<()> {
                    while !done.load(Ordering::Relaxed) {
                        let count = calls.fetch_add(1, Ordering::Relaxed);
                        let sandbox = sandbox(lab, caller, count);
                        netns::add(&sandbox.netns)?;
                        let result = runtime.add(&sandbox)?;
                        runtime.del(&sandbox, Some(&result))?;
                        netns::delete(&sandbox.netns)?;
                    }
                    Ok(())
                })
            })
            .collect();
        let installed = (1..=INSTALLS).try_for_each(install);
        done.store(true, Ordering::Relaxed);
        callers.into_iter().try_for_each(|caller| caller.join().expect("no panic"))?;
        installed
    })?;
    let calls = calls.load(Ordering::Relaxed);
    println!("{calls} pods started and ended while the plugin was replaced {INSTALLS} times");
    ensure!(calls > 2, "only {calls} pods");
    let left: Vec<_> = std::fs::read_dir(&runtime.bin_dir)?.collect::<std::io::Result<_>>()?;
    ensure!(left.len() == 1, "{left:?}");
    Ok(())
}

fn sandbox(lab: &Lab, caller: usize, count: usize) -> Sandbox {
    Sandbox {
        container: format!("c{caller}n{count}"),
        netns: lab.netns(&format!("i{caller}n{count}")),
        namespace: "default".to_owned(),
        pod: format!("p{caller}n{count}"),
        uid: format!("u{caller}n{count}"),
        capabilities: Value::Null,
    }
}
