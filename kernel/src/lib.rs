//! Linux as Manx sees it.

pub mod names;
pub mod netlink;
