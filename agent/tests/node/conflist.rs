//! When the conflist is written, what is in it, and who may change it.

use std::os::unix::fs::PermissionsExt as _;

use super::world::{files, run, until};

const ALL: [&str; 3] = ["manx-cni", "portmap", "bandwidth"];

#[test]
fn the_conflist_is_there_once_the_node_has_a_pool_and_stays_when_the_agent_ends() {
    run(|world| {
        let agent = world.start();
        until("the agent says what is missing", || {
            world.page("readyz").contains("no enabled automatic pool")
        });
        assert_eq!(files(&world.path("conf")), Vec::<String>::new());
        world.add_pool();
        world.until_plugins(&ALL);
        assert_eq!(std::fs::metadata(world.conflist()).expect("there").permissions().mode() & 0o7777, 0o600);
        until("it is ready", || world.page("readyz") == "ok\n");
        agent.stop();
        assert_eq!(files(&world.path("conf")), ["10-manx.conflist"]);
    });
}

#[test]
fn a_chained_plugin_is_in_the_conflist_while_the_node_has_it() {
    run(|world| {
        world.add_pool();
        std::fs::remove_file(world.path("bin").join("bandwidth")).expect("removed");
        let _agent = world.start();
        world.until_plugins(&ALL[..2]);
        until("the metric says so", || world.shows("manx_cni_plugins_missing 1"));
        let status = || std::fs::read_to_string(world.path("run").join("status.yaml")).unwrap_or_default();
        until("the condition says so", || status().contains("bandwidth not in"));
        assert_eq!(world.log().matches("bandwidth not in").count(), 1, "once");
        world.add_plugin("bandwidth");
        world.until_plugins(&ALL);
        until("all is well", || world.shows("manx_cni_plugins_missing 0"));
        assert!(world.shows("manx_cni_conflist_restored_total 0"), "nobody else changed it");
    });
}

#[test]
fn a_conflist_that_somebody_removes_or_changes_is_put_back_and_what_others_append_stays() {
    run(|world| {
        world.add_pool();
        let _agent = world.start();
        world.until_plugins(&ALL);
        until("it is known", || world.shows("manx_cni_conflist_in_place 1"));
        let written = std::fs::read_to_string(world.conflist()).expect("read");
        std::fs::remove_file(world.conflist()).expect("removed");
        world.until_plugins(&ALL);
        until("it is counted", || world.shows("manx_cni_conflist_restored_total 1"));
        assert!(world.log().contains("somebody removed the conflist"));
        std::fs::write(world.conflist(), written.replace("portmap", "portsnap")).expect("written");
        until("it is as it was", || {
            std::fs::read_to_string(world.conflist()).is_ok_and(|text| text.contains("\"portmap\""))
        });
        until("it is said", || world.log().contains("somebody changed the conflist"));
    });
}

#[test]
fn a_plugin_that_others_append_is_not_fought() {
    run(|world| {
        world.add_pool();
        let _agent = world.start();
        world.until_plugins(&ALL);
        let mut list: serde_json::Value =
            serde_json::from_slice(&std::fs::read(world.conflist()).expect("read")).expect("JSON");
        list["plugins"].as_array_mut().expect("a list").push(serde_json::json!({"type": "istio-cni"}));
        std::fs::write(world.conflist(), list.to_string()).expect("written");
        std::fs::remove_file(world.path("bin").join("portmap")).expect("removed");
        world.until_plugins(&["manx-cni", "bandwidth", "istio-cni"]);
        assert!(world.shows("manx_cni_conflist_restored_total 0"));
    });
}

#[test]
fn another_network_that_sorts_before_ours_is_named() {
    run(|world| {
        world.add_pool();
        let other = world.path("conf").join("05-cilium.conflist");
        std::fs::write(&other, "{}").expect("written");
        std::fs::write(world.path("conf").join("99-loopback.conf"), "{}").expect("written");
        std::fs::write(world.path("conf").join("00-notes.txt"), "").expect("written");
        let _agent = world.start();
        world.until_plugins(&ALL);
        until("the log names it", || world.log().contains("takes 05-cilium.conflist in"));
        std::fs::remove_file(other).expect("removed");
        until("it is not named any more", || world.shows("manx_cni_conflists_before 0"));
    });
}

#[test]
fn a_template_that_is_none_is_said_and_read_again_once_it_is_one() {
    run(|world| {
        world.add_pool();
        let template = std::fs::read_to_string(world.template()).expect("read");
        std::fs::write(world.template(), &template[..40]).expect("written");
        let _agent = world.start();
        until("it is said", || world.page("readyz").contains("cannot be used: it is not JSON"));
        std::fs::write(world.template(), template).expect("written");
        // A notice of any change around it is enough.
        world.add_plugin("another");
        world.until_plugins(&ALL);
    });
}

#[test]
fn without_the_plugin_there_is_no_conflist() {
    run(|world| {
        world.add_pool();
        std::fs::remove_file(world.path("bin").join("manx-cni")).expect("removed");
        let _agent = world.start();
        until("it is said", || world.page("readyz").contains("manx-cni is not in"));
        assert_eq!(files(&world.path("conf")), Vec::<String>::new());
        world.add_plugin("manx-cni");
        world.until_plugins(&ALL);
    });
}
