//! The CNI specification, 0.1.0 to 1.1.0, as far as a plugin that makes interfaces needs it: what the runtime passes
//! in ([`Call`] from the environment, [`NetConf`] from standard input) and what it gets back ([`Success`], [`Error`],
//! the answer to VERSION).
//!
//! Everything is parsed here, once, before anything is changed; the verbs work with valid values only. Standard input
//! may hold secrets of other plugins, so no message repeats any of it beyond values that were already found to be
//! harmless. Deliberately absent: delegation. Manx executes no other plugin, so nothing in a configuration can make
//! it run a program.

mod call;
mod config;
mod error;
mod result;
mod version;

pub use call::{Call, PodArgs, Target, Verb};
pub use config::{CONFIG_MAX, NetConf};
pub use error::{Code, Error};
pub use result::{Dns, Interface, Ip, Route, Success};
pub use version::{Version, version_answer};
