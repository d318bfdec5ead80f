//! What the controller shows of the pools, in the format of OpenMetrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use manx_api::IPPoolStatus;

use crate::shell::health::Pages;
use crate::shell::metrics::process::Process;
use crate::shell::metrics::sheet::Sheet;
use crate::shell::metrics::{ApiRequests, POOLS_SHOWN, PoolLabel, names};

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
pub(super) struct Board {
    figures: Arc<Mutex<Figures>>,
    /// Requests to the API server.
    pub(super) api: ApiRequests,
}

impl Board {
    /// Changes what is shown.
    pub(super) fn update(&self, change: impl FnOnce(&mut Figures)) {
        change(&mut self.figures.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn render(&self) -> String {
        let figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut shown = Sheet::default();
        shown.program("controller", Process::read().as_ref());
        self.api.show(&mut shown);
        let pools = || figures.pools.iter().take(POOLS_SHOWN);
        let label = |pool: &String| PoolLabel { pool: pool.clone() };
        let number = |read: fn(&IPPoolStatus) -> i64| {
            pools().map(|(name, status)| (label(name), read(status))).collect::<Vec<_>>()
        };
        shown.numbers(&names::POOL_ADDRESSES, number(|status| status.capacity));
        shown.numbers(&names::POOL_USED, number(|status| status.used));
        shown.numbers(&names::POOL_FREE, number(|status| status.free));
        shown.numbers(&names::POOL_BLOCKS, number(|status| status.blocks));
        for (metric, condition) in [(names::POOL_READY, "Ready"), (names::POOL_NEARLY_FULL, "NearlyFull")] {
            let holds = pools().map(|(name, status)| {
                (label(name), i64::from(manx_api::is_true(&status.conditions, condition)))
            });
            shown.numbers(&metric, holds.collect::<Vec<_>>());
        }
        shown.number(&names::LEADS, u8::from(figures.leads));
        shown.number(&names::NODES_GONE, figures.gone);
        shown.counter(&names::RECLAIMED, figures.reclaimed);
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
