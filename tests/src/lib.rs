//! Simulation, the lab, and the embedded API server that the tests run against.

pub mod apiserver;
pub mod bench;
pub mod lab;
