//! What the controller shows of the pools, in the format of OpenMetrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use manx_api::IPPoolStatus;

use crate::shell::health::Pages;
use crate::shell::metrics::{PoolLabel, Shown};

/// Pools that are shown; what more there are is left out.
const SHOWN: usize = 1000;

/// What is shown, as of the last look.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures {
    /// The status of each pool.
    pub(super) pools: BTreeMap<String, IPPoolStatus>,
    /// This replica leads.
    pub(super) leads: bool,
    /// Nodes without a Node object whose blocks have not been taken back.
    pub(super) gone: usize,
    /// Blocks taken back since the start.
    pub(super) reclaimed: u64,
}

/// The figures, shared with whoever asks.
#[derive(Debug, Clone, Default)]
pub(super) struct Board(Arc<Mutex<Figures>>);

impl Board {
    /// Changes what is shown.
    pub(super) fn update(&self, change: impl FnOnce(&mut Figures)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn render(&self) -> String {
        let figures = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut shown = Shown::new();
        let pools = || figures.pools.iter().take(SHOWN);
        let label = |pool: &String| PoolLabel { pool: pool.clone() };
        let number = |read: fn(&IPPoolStatus) -> i64| {
            pools().map(|(name, status)| (label(name), read(status))).collect::<Vec<_>>()
        };
        shown.family("pool_addresses", "Addresses that may be given", number(|status| status.capacity));
        shown.family("pool_addresses_used", "Addresses in use", number(|status| status.used));
        shown.family("pool_addresses_free", "Addresses that are not in use", number(|status| status.free));
        shown.family("pool_blocks", "Blocks that nodes own", number(|status| status.blocks));
        for (name, help, condition) in [
            ("pool_ready", "Whether the pool gives addresses", "Ready"),
            ("pool_nearly_full", "Whether 80 per cent of the pool are gone", "NearlyFull"),
        ] {
            let holds = pools().map(|(name, status)| {
                (label(name), i64::from(manx_api::is_true(&status.conditions, condition)))
            });
            shown.family(name, help, holds.collect::<Vec<_>>());
        }
        shown.number("controller_leads", "Whether this replica leads", u8::from(figures.leads));
        shown.number("controller_nodes_gone", "Nodes that are gone and still have blocks", figures.gone);
        shown.counter(
            "controller_blocks_reclaimed",
            "Blocks taken back from nodes that are gone",
            figures.reclaimed,
        );
        shown.text()
    }
}

impl Pages for Board {
    fn ailments(&self) -> Vec<String> {
        Vec::new()
    }

    fn obstacles(&self) -> Vec<String> {
        Vec::new()
    }

    fn metrics(&self) -> String {
        self.render()
    }
}

/// A page with all that can be shown.
#[cfg(test)]
pub(crate) fn everything() -> String {
    let board = Board::default();
    let status = IPPoolStatus { used: 7, ..IPPoolStatus::default() };
    board.update(|figures| drop(figures.pools.insert("v4".to_owned(), status)));
    board.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_shows_its_figures() {
        let text = everything();
        assert!(text.contains("manx_pool_addresses_used{pool=\"v4\"} 7"), "{text}");
    }
}
