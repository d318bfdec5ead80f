//! Linux as Manx sees it.

pub mod netlink;
