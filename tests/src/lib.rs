//! The lab, the embedded API server and the benchmarks, and the scenarios that run on them.

pub mod apiserver;
pub mod bench;
pub mod crash;
pub mod interop;
pub mod kubernetes;
pub mod lab;
pub mod monitoring;
pub mod peers;
pub mod screens;
