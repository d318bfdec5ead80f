//! Prints `docs/metrics.md`; `cargo xtask metrics` calls it.

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(manx_agent::shell::metrics::names::manual().as_bytes())
}
