//! The agent with nothing but the rights that docs/security.md lists: as root in a container that is not privileged.

use std::process::Command;

use super::world::{AGENT, World, command, run, until};

/// What is left of the rights of root.
const RIGHTS: &str = "-all,+net_admin,+net_bind_service,+sys_admin";

/// The agent as in a container: few rights and no more to be had, everything read-only but for its own directories,
/// `/proc/sys` too, and the settings of the network by a mount of the host's elsewhere.
fn contained(world: &World, rights: &str, more: &str) -> Command {
    let dir = world.path("").display().to_string();
    std::fs::create_dir_all(world.path("host-net")).expect("made");
    let script = format!(
        "mount --make-rprivate / && mount --bind {dir} {dir} && mount --bind /proc/sys/net {dir}/host-net \
         && mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && mount -o remount,bind,ro / \
         && exec setpriv --pdeathsig KILL --no-new-privs --inh-caps=-all --bounding-set={rights} -- \"$@\" {more}"
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", &script, "sh", AGENT]).args(world.arguments());
    command
}

#[test]
fn a_few_rights_and_a_mount_of_the_networks_settings_are_enough() {
    run(|world| {
        command("sysctl -qw net.ipv4.ip_forward=0");
        command("sysctl -qw net.ipv6.conf.all.forwarding=0");
        world.add_pool();
        let place = format!("--proc-sys-net {}", world.path("host-net").display());
        let agent = world.start_as(contained(&world, RIGHTS, &place));
        until("it is ready", || world.page("readyz") == "ok\n");
        until("the routes are there", || command("ip route show proto 179").contains("10.244.3.64/26"));
        until("the tables are there", || command("nft list tables").matches("manx").count() >= 2);
        until("BGP listens", || command("ss -Hltn").contains(":179 "));
        assert_eq!(command("sysctl -n net.ipv4.ip_forward").trim(), "1", "that of this namespace");
        assert!(!world.log().contains("ERROR"), "{}", world.log());
        agent.stop();
    });
}

#[test]
fn without_that_mount_the_agent_says_what_to_do() {
    run(|world| {
        command("sysctl -qw net.ipv4.ip_forward=0");
        let _agent = world.start_as(contained(&world, RIGHTS, ""));
        until("it is said", || world.log().contains("name that place with --proc-sys-net"));
    });
}
