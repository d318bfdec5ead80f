//! Linux as Manx sees it: a pure model of routes, links and translation, and the netlink shell that applies it.
//!
//! Pure: [`model`], [`tracker`], [`fib`], [`nat`], [`guard`], [`names`], [`pod`], [`passage`], [`aside`]. Shell: [`netlink`],
//! [`netns`], [`sysctl`], [`xtables`].

pub mod aside;
pub mod fib;
pub mod guard;
pub mod model;
pub mod names;
pub mod nat;
pub mod netlink;
pub mod netns;
pub mod passage;
pub mod pod;
pub mod sysctl;
pub mod tracker;
pub mod xtables;
