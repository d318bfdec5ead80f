//! Records cut anywhere, damaged anywhere, and what they add up to.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn id(n: u8) -> EndpointId {
    EndpointId { container: format!("c{n}"), ifname: "eth0".into() }
}

fn address(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

fn endpoint(n: u8, addresses: Vec<IpAddr>) -> Endpoint {
    Endpoint { id: id(n), link: format!("cali{n}\n"), addresses, ..Endpoint::default() }
}

/// What a record says, kept as naively as can be.
#[derive(Debug, Clone, Default)]
struct Naive {
    live: BTreeMap<EndpointId, Endpoint>,
    leaving: Vec<Endpoint>,
    freed: Vec<IpAddr>,
    resting: BTreeMap<IpAddr, Option<Duration>>,
    blocks: BTreeSet<BlockId>,
}

impl Naive {
    fn recovered(&self) -> Recovered {
        let mut leaving = self.leaving.clone();
        leaving.sort_by(|a, b| a.id.cmp(&b.id));
        Recovered {
            endpoints: self.live.values().cloned().collect(),
            leaving,
            freed: self.freed.clone(),
            resting: self.resting.clone(),
            blocks: self.blocks.clone(),
            ..Recovered::default()
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Assign(u8),
    Free(u8),
    Gone(u8),
    Own(u8),
}

/// Entries as a machine would write them, and what they add up to after each.
fn play(steps: &[Step]) -> Vec<(Entry, Naive)> {
    let mut naive = Naive::default();
    let mut history = Vec::new();
    for step in steps {
        let entry = match *step {
            Step::Assign(n) if naive.live.contains_key(&id(n)) => continue,
            Step::Assign(n) => {
                let used =
                    |a: &IpAddr| naive.live.values().chain(&naive.leaving).any(|e| e.addresses.contains(a));
                let Some(free) = (0..=255).map(address).find(|a| !used(a)) else { continue };
                naive.freed.retain(|freed| *freed != free);
                naive.resting.remove(&free);
                naive.live.insert(id(n), endpoint(n, vec![free]));
                Entry::Assign(endpoint(n, vec![free]))
            }
            Step::Free(n) => {
                let Some(ended) = naive.live.remove(&id(n)) else { continue };
                naive.leaving.push(ended);
                Entry::Free(id(n))
            }
            Step::Gone(n) => {
                let gone: Vec<Endpoint> = naive.leaving.extract_if(.., |e| e.id == id(n)).collect();
                let at = (n > 0).then(|| u64::from(n) * 100);
                let freed: Vec<IpAddr> = gone.into_iter().flat_map(|e| e.addresses).collect();
                naive.resting.extend(freed.iter().map(|freed| (*freed, at.map(Duration::from_millis))));
                naive.freed.extend(freed);
                Entry::Gone(Gone::new(id(n), at))
            }
            Step::Own(n) => {
                let block = BlockId::around(address(n), 30);
                naive.blocks.insert(block);
                Entry::Own(block)
            }
        };
        history.push((entry, naive.clone()));
    }
    history
}

fn step() -> impl Strategy<Value = Step> {
    let n = 0u8..6;
    prop_oneof![
        n.clone().prop_map(Step::Assign),
        n.clone().prop_map(Step::Free),
        n.clone().prop_map(Step::Gone),
        n.prop_map(Step::Own),
    ]
}

proptest! {
    #[test]
    fn any_prefix_of_a_record_is_the_state_after_its_whole_lines(
        steps in prop::collection::vec(step(), 0..60), cut: prop::sample::Index,
    ) {
        let history = play(&steps);
        let mut record = encode_all(&Ledger::default());
        let mut ends = vec![record.len()];
        for (entry, _) in &history {
            record.extend(encode(entry));
            ends.push(record.len());
        }
        let cut = cut.index(record.len() + 1);
        let whole = ends.iter().filter(|end| **end <= cut).count();
        let expected = whole.checked_sub(2).map_or_else(Naive::default, |last| history[last].1.clone());
        prop_assert_eq!(recover(&record[..cut]), expected.recovered());
    }

    #[test]
    fn a_rewritten_record_says_the_same_however_it_is_cut_and_continued(
        steps in prop::collection::vec(step(), 0..60), more in prop::collection::vec(step(), 0..20),
    ) {
        let all: Vec<Step> = steps.iter().chain(&more).cloned().collect();
        let history = play(&all);
        let half = play(&steps).len();
        let mut ledger = Ledger::default();
        history[..half].iter().for_each(|(entry, _)| drop(ledger.apply(entry)));
        let mut record = encode_all(&ledger);
        history[half..].iter().for_each(|(entry, _)| record.extend(encode(entry)));
        let expected = history.last().map_or_else(Naive::default, |(_, naive)| naive.clone());
        prop_assert_eq!(recover(&record), expected.recovered());
    }

    #[test]
    fn no_bytes_make_recovery_panic(noise: Vec<u8>, good: bool) {
        let mut record = if good { encode_all(&Ledger::default()) } else { Vec::new() };
        record.extend(noise);
        recover(&record);
    }
}

#[test]
fn a_flipped_bit_costs_one_line_and_is_counted() {
    let entries =
        [Entry::Assign(endpoint(1, vec![address(1)])), Entry::Assign(endpoint(2, vec![address(2)]))];
    let header = encode_all(&Ledger::default()).len();
    let mut record = encode_all(&Ledger::default());
    entries.iter().for_each(|entry| record.extend(encode(entry)));
    for at in header..header + encode(&entries[0]).len() - 1 {
        let mut damaged = record.clone();
        damaged[at] ^= 1;
        let recovered = recover(&damaged);
        let expected = Recovered { endpoints: vec![endpoint(2, vec![address(2)])], ..Recovered::default() };
        assert_eq!(Recovered { damaged: 0, ..recovered.clone() }, expected);
        assert!(recovered.damaged >= 1);
    }
}

#[test]
fn a_record_of_another_format_is_left_alone_and_counted() {
    let mut record = b"manx-ipam-record 2\n".to_vec();
    record.extend(encode(&Entry::Assign(endpoint(1, vec![address(1)]))));
    assert_eq!(recover(&record), Recovered { damaged: 2, ..Recovered::default() });
}

#[test]
fn the_lines_are_as_documented() {
    let block = Entry::Own("10.0.0.64/26".parse().unwrap());
    assert_eq!(String::from_utf8(encode(&block)).unwrap(), "149b4bc2 {\"own\":\"10.0.0.64/26\"}\n");
    let gone = |at| String::from_utf8(encode(&Entry::Gone(Gone::new(id(7), at)))).unwrap();
    let old = gone(None);
    assert!(old.ends_with(" {\"gone\":{\"container\":\"c7\",\"ifname\":\"eth0\"}}\n"), "{old}");
    let new = gone(Some(1500));
    assert!(new.ends_with(" {\"gone\":{\"container\":\"c7\",\"ifname\":\"eth0\",\"at\":1500}}\n"), "{new}");
}

#[test]
fn an_address_given_on_after_a_lost_free_belongs_to_its_latest_holder() {
    let mut record = encode_all(&Ledger::default());
    record.extend(encode(&Entry::Assign(endpoint(1, vec![address(1)]))));
    record.extend(encode(&Entry::Assign(endpoint(2, vec![address(1)]))));
    record.extend(encode(&Entry::Free(id(1))));
    record.extend(encode(&Entry::Gone(Gone::new(id(1), None))));
    let recovered = recover(&record);
    assert_eq!(recovered.freed, Vec::<IpAddr>::new(), "the second endpoint still has it");
    assert_eq!(recovered.endpoints, [endpoint(2, vec![address(1)])]);
}
