//! Conditions: the state of an object in words that both people and `kubectl wait` understand.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// The condition of that type, if it was ever set.
pub fn condition<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether the condition of that type is there and `True`.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    condition(conditions, type_).is_some_and(|condition| condition.status == "True")
}

/// Sets the condition `type_` and returns whether anything changed, so that a caller writes only news.
///
/// `lastTransitionTime` becomes `now` only when the status (true or false) differs from before; a new reason, message
/// or `observed_generation` alone leaves it. `reason` is one CamelCase word, `message` a sentence for people.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    type_: &str,
    status: bool,
    reason: &str,
    message: impl Into<String>,
    observed_generation: Option<i64>,
    now: Timestamp,
) -> bool {
    let mut new = Condition {
        type_: type_.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: message.into(),
        observed_generation,
        last_transition_time: Time(now),
    };
    let Some(old) = conditions.iter_mut().find(|condition| condition.type_ == type_) else {
        conditions.push(new);
        return true;
    };
    if old.status == new.status {
        new.last_transition_time = old.last_transition_time.clone();
    }
    let changed = *old != new;
    *old = new;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn the_time_of_transition_moves_with_the_status_only() {
        let mut conditions = Vec::new();
        assert!(set_condition(&mut conditions, "Ready", false, "Waiting", "no block yet", Some(1), at(10)));
        assert!(set_condition(
            &mut conditions,
            "Ready",
            false,
            "PoolFull",
            "the pool is full",
            Some(1),
            at(20)
        ));
        assert_eq!(conditions[0].last_transition_time, Time(at(10)));
        assert!(set_condition(&mut conditions, "Ready", true, "Ready", "", Some(2), at(30)));
        assert_eq!(conditions[0].last_transition_time, Time(at(30)));
        assert_eq!(conditions.len(), 1);
    }

    #[test]
    fn saying_the_same_again_is_no_news() {
        let mut conditions = Vec::new();
        set_condition(&mut conditions, "Ready", true, "Ready", "all is well", None, at(10));
        assert!(!set_condition(&mut conditions, "Ready", true, "Ready", "all is well", None, at(20)));
        assert!(is_true(&conditions, "Ready"));
        assert!(!is_true(&conditions, "Overlap"));
    }
}
