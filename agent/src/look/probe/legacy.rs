//! Rules of legacy iptables that drop packets while probes are under way: by their counters, since they tell nothing else.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use manx_facts::probe::{Flow, LegacyDrop};
use manx_kernel::xtables::{self, Dropping};

/// The shortest time between two looks, and how many times as long as a look took it is at least: the kernel copies whole
/// tables.
const PAUSE: Duration = Duration::from_millis(150);
const TIMES: u32 = 10;

/// The counters as they were, and when they are looked at again.
pub(super) struct Legacy {
    flow: Flow,
    before: BTreeMap<(String, String, Option<u32>), u64>,
    told: Vec<LegacyDrop>,
    next: Instant,
}

impl Legacy {
    /// Reads them in the namespace of this thread; `None` where there are no such tables.
    ///
    /// # Errors
    /// Why they cannot be read, in words.
    pub(super) fn open(flow: &Flow) -> Result<Option<Self>, String> {
        if xtables::tables(flow.source.is_ipv6()).is_empty() {
            return Ok(None);
        }
        let rules = read(flow).map_err(|error| error.to_string())?;
        let before = rules.into_iter().map(|rule| (key(&rule), rule.packets)).collect();
        Ok(Some(Self { flow: *flow, before, told: Vec::new(), next: Instant::now() }))
    }

    /// What has dropped packets since the beginning, if that is more than at the last look.
    pub(super) fn news(&mut self, now: Instant) -> Option<Vec<LegacyDrop>> {
        if now < self.next {
            return None;
        }
        // A table that changes all the time is looked at again.
        let rules = read(&self.flow).ok()?;
        self.next = now + PAUSE.max(now.elapsed() * TIMES);
        let grown = |rule: Dropping| {
            let before = self.before.get(&key(&rule)).copied().unwrap_or(0);
            let packets = rule.packets.checked_sub(before).filter(|packets| *packets > 0)?;
            let Dropping { table, chain, line, comment, target, .. } = rule;
            Some(LegacyDrop { table, chain, line, comment, target, packets })
        };
        let drops: Vec<LegacyDrop> = rules.into_iter().filter_map(grown).collect();
        (drops != self.told).then(|| {
            self.told.clone_from(&drops);
            drops
        })
    }
}

fn read(flow: &Flow) -> std::io::Result<Vec<Dropping>> {
    let mut rules = xtables::dropping(flow.source.is_ipv6())?;
    rules.retain(|rule| rule.may_concern(flow.source, flow.ip_number()));
    Ok(rules)
}

fn key(rule: &Dropping) -> (String, String, Option<u32>) {
    (rule.table.clone(), rule.chain.clone(), rule.line)
}
