//! STATUS: can this node take pods?

use manx_cni::spec::{Error, NetConf};

use crate::agent;

/// Succeeds if the agent answers and has addresses to give.
pub(crate) fn status(config: &NetConf) -> Result<(), Error> {
    agent::status(&config.run_dir)
}
