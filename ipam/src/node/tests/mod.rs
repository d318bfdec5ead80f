//! The machine on a bench: scenarios told step by step, a naive model under random adversity, many nodes
//! racing.

mod assigning;
mod bench;
mod blocks;
mod model;
mod pools;
mod race;
