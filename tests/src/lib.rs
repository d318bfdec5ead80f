//! Simulation, the lab, and the embedded API server that the tests run against.

pub mod apiserver;
pub mod lab;
