//! Container images written without a container engine: a tree of files becomes a layer ([`tree`]), layers and a
//! configuration become one archive that container engines load ([`archive`]).
//!
//! The same input gives the same bytes: nothing here looks at the clock, at the owner or the time of a file, or at the
//! order in which a folder lists what it holds. The images of this project are put together in [`product`] (what they are
//! made of, in [`sbom`]), the ones that its tests need in [`props`]; `cargo xtask image` builds what goes into them.

pub mod archive;
pub mod elf;
pub mod product;
pub mod props;
pub mod sbom;
pub mod tree;
