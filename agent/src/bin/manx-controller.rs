//! The cluster's controller: reads its options, runs, and says why if it cannot.

use std::process::ExitCode;

use clap::Parser as _;
use manx_agent::controller::options::Options;
use manx_agent::controller::run;
use manx_agent::shell::start;

fn main() -> ExitCode {
    let options = Options::parse();
    start::start("controller", options.log_format, run::run(options))
}
