//! What runs out on a machine: tracked connections, neighbours, tasks, open files, and what watches of files are made of.

use manx_facts::host::Room;
use manx_kernel::sysctl;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::host::named;

/// The most instances and watches of inotify that are tried for, and the part of all that is.
const MOST_TRIED: u64 = 64;
const PART_TRIED: u64 = 16;
/// A folder with more files than that, which every machine has.
const FILES: &str = "/proc/sys/kernel";

/// Looks.
pub(super) fn look() -> Vec<Room> {
    let of = |what: &str, used: Option<u64>, key: &str| {
        Some(Room { what: what.to_owned(), used, limit: setting(key)?, setting: named(key) })
    };
    let tasks = tasks();
    let all = [
        of(
            "tracked connections",
            setting("net/netfilter/nf_conntrack_count"),
            "net/netfilter/nf_conntrack_max",
        ),
        of("IPv4 neighbours", neighbours("arp_cache"), "net/ipv4/neigh/default/gc_thresh3"),
        of("IPv6 neighbours", neighbours("ndisc_cache"), "net/ipv6/neigh/default/gc_thresh3"),
        of("open files of the machine", number("/proc/sys/fs/file-nr", 0), "fs/file-max"),
        of("numbers of processes and threads", tasks, "kernel/pid_max"),
        of("processes and threads", tasks, "kernel/threads-max"),
        of("instances of inotify of one user", None, "fs/inotify/max_user_instances").map(instances),
        of("watches of inotify of one user", None, "fs/inotify/max_user_watches").map(watches),
    ];
    all.into_iter().flatten().collect()
}

/// The whole part of a number of a file of numbers, by its place.
pub(super) fn number(path: &str, place: usize) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    text.split_whitespace().nth(place)?.split('.').next()?.parse().ok()
}

fn setting(key: &str) -> Option<u64> {
    sysctl::read(key).ok()?.parse().ok()
}

fn neighbours(cache: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/net/stat/{cache}")).ok()?;
    u64::from_str_radix(text.lines().nth(1)?.split_whitespace().next()?, 16).ok()
}

/// Processes and threads of the whole machine, whatever of them can be seen.
fn tasks() -> Option<u64> {
    read_tasks(&std::fs::read_to_string("/proc/loadavg").ok()?)
}

fn read_tasks(loadavg: &str) -> Option<u64> {
    loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

/// How many are used, where fewer are left than are tried for: what others have of theirs nobody tells.
fn used(limit: u64, mut take: impl FnMut(u64) -> Result<(), Errno>) -> Option<u64> {
    let tried = (limit / PART_TRIED).clamp(1, MOST_TRIED);
    let left = (0..tried).find(|place| matches!(take(*place), Err(Errno::EMFILE | Errno::ENOSPC)))?;
    Some(limit.saturating_sub(left))
}

fn instances(room: Room) -> Room {
    let mut taken = Vec::new();
    let used =
        used(room.limit, |_| Inotify::init(InitFlags::IN_CLOEXEC).map(|instance| taken.push(instance)));
    Room { used, ..room }
}

fn watches(room: Room) -> Room {
    let Ok(instance) = Inotify::init(InitFlags::IN_CLOEXEC) else { return room };
    let files = std::fs::read_dir(FILES).into_iter().flatten().flatten();
    let mut files = files.map(|file| file.path()).filter(|path| path.is_file());
    let used = used(room.limit, |_| match files.next() {
        Some(path) => instance.add_watch(&path, AddWatchFlags::IN_DELETE_SELF).map(drop),
        None => Ok(()),
    });
    Room { used, ..room }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_those_of_the_whole_machine() {
        assert_eq!(read_tasks("0.03 0.10 0.05 2/1043 77\n"), Some(1043));
        assert_eq!(read_tasks("unlike\n"), None);
    }

    #[test]
    fn what_is_left_is_known_only_when_it_is_little() {
        let left = |left: u64| move |place: u64| if place < left { Ok(()) } else { Err(Errno::EMFILE) };
        assert_eq!(used(128, left(100)), None);
        assert_eq!(used(128, left(3)), Some(125));
        assert_eq!(used(8192, left(10)), Some(8182));
        assert_eq!(used(1, left(0)), Some(1));
    }

    #[test]
    fn this_machine_has_room() {
        let room = look();
        let of =
            |what: &str| room.iter().find(|room| room.what.contains(what)).expect("every machine has it");
        assert!(of("processes").used.is_some_and(|used| used > 0));
        assert!(of("open files").used.is_some() && of("instances").limit > 0 && of("watches").limit > 0);
    }
}
