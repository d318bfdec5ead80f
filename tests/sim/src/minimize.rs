//! Making a failing run smaller: acts are left out as long as the same invariant breaks.

use crate::plan::Plan;
use crate::run::{Outcome, run};

/// The smallest plan found that breaks the same invariant, and what came of it; `None` if the plan breaks none. At most
/// `tries` runs are made.
pub fn minimize(plan: &Plan, tries: usize) -> Option<(Plan, Outcome)> {
    let mut outcome = run(plan, false);
    let wanted = outcome.violation.as_ref()?.invariant;
    let mut plan = plan.clone();
    // What came later had no part in it.
    let end = outcome.violation.as_ref()?.at;
    let early =
        Plan { acts: plan.acts.iter().copied().filter(|(at, _)| *at <= end).collect(), ..plan.clone() };
    let mut left = tries;
    let mut breaks = |plan: &Plan| {
        left = left.checked_sub(1)?;
        Some(run(plan, false))
            .filter(|outcome| outcome.violation.as_ref().is_some_and(|it| it.invariant == wanted))
    };
    if let Some(again) = breaks(&early) {
        (plan, outcome) = (early, again);
    }
    let mut size = plan.acts.len() / 2;
    while size > 0 {
        let mut from = 0;
        while from < plan.acts.len() {
            let mut less = plan.clone();
            less.acts.drain(from..(from + size).min(plan.acts.len()));
            match breaks(&less) {
                Some(again) => (plan, outcome) = (less, again),
                None => from += size,
            }
        }
        size /= 2;
    }
    Some((plan, outcome))
}
