//! The wire codec against golden octets, the table of RFC 7606, properties, and an independent decoder.

mod differential;
mod faults;
mod golden;
mod octets;
mod properties;
mod rfcs;
mod strategies;
