//! The node agent: reads its options, runs, and says why if it cannot.

use std::process::ExitCode;

use clap::Parser as _;
use manx_agent::shell::options::Options;
use manx_agent::shell::{run, start};

fn main() -> ExitCode {
    let options = Options::parse();
    start::start("agent", options.log_format, run::run(options))
}
