//! STATUS: can this node take pods?

use manx_cni::spec::{Code, Error, NetConf};
use manx_kernel::sysctl;

use crate::agent;

/// Succeeds if the agent answers and has addresses to give, and the node passes packets of pods on.
pub(crate) fn status(config: &NetConf) -> Result<(), Error> {
    agent::status(&config.run_dir)?;
    for (key, family) in [("net/ipv4/ip_forward", "IPv4"), ("net/ipv6/conf/all/forwarding", "IPv6")] {
        // A kernel without IPv6 has no such setting, and no pods with IPv6.
        if sysctl::read(key).is_ok_and(|value| value == "0") {
            let msg =
                format!("this node forwards no {family} packets, so that its pods reach nobody beyond it");
            let key = key.replace('/', ".");
            return Err(Error::new(Code::NOT_AVAILABLE_LIMITED, msg)
                .details(format!("switch it on again: sysctl -w {key}=1 (the agent did at its start)")));
        }
    }
    Ok(())
}
