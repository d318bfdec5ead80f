//! What holds for the speaker itself may change while sessions go on.

use super::Speaker;
use crate::config::Local;

impl Speaker {
    /// Takes over what can change in the life of a speaker.
    pub(super) fn set_local(&mut self, local: Local) {
        let Local { asn, router_id, restarting, .. } = self.core.local;
        let local = Local { asn, router_id, restarting, ..local };
        self.settling.set_window(local.settle);
        self.core.rib.set_local(&local);
        let before = std::mem::replace(&mut self.core.local, local);
        if before.cluster() != self.core.local.cluster() {
            for peer in self.peers.values_mut() {
                peer.change_cluster(&mut self.core);
            }
        }
    }
}
