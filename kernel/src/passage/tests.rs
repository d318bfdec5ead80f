//! Rules as people write them, and whether pods' packets pass.

use super::*;

fn packet() -> Packet {
    let [from, to] = ["10.244.1.2", "10.244.2.2"].map(|text| text.parse().expect("an address"));
    Packet { from, to, in_link: "cali0123456789a".to_owned(), out_link: "eth0".to_owned() }
}

const REGISTER: usize = 4;

fn link(field: Field, begins: &str) -> [Step; 2] {
    let octets = begins.as_bytes().to_vec();
    [Step::Load(REGISTER, field), Step::Is { register: REGISTER, octets, holds: true }]
}

/// `ip saddr 10.244.0.0/16`, or daddr.
fn within(offset: usize, second: u8) -> [Step; 3] {
    let bits = Step::Bits { from: REGISTER, to: REGISTER, mask: vec![255, 255, 0, 0], turn: vec![0; 4] };
    let is = Step::Is { register: REGISTER, octets: vec![10, second, 0, 0], holds: true };
    [Step::Load(REGISTER, Field::Network(offset, 4)), bits, is]
}

fn rule(steps: &[Step], verdict: Verdict) -> Vec<Step> {
    let mut rule = steps.to_vec();
    rule.extend([Step::Nothing, Step::Decide(verdict)]);
    rule
}

fn table(drops: bool, chains: &[(&str, Vec<Vec<Step>>)]) -> Table {
    let chains: BTreeMap<_, _> =
        chains.iter().map(|(name, rules)| ((*name).to_owned(), rules.clone())).collect();
    let bases = BTreeMap::from([("FORWARD".to_owned(), drops)]);
    Table { family: Family::Ip, name: "filter".to_owned(), bases, chains, sets: BTreeMap::new() }
}

fn dropped_by(table: &Table) -> Option<Option<String>> {
    barriers(std::slice::from_ref(table), &packet()).into_iter().next().map(|barrier| barrier.rule_in)
}

#[test]
fn a_policy_of_drop_without_a_rule_for_pods_is_a_barrier() {
    assert_eq!(dropped_by(&table(true, &[("FORWARD", Vec::new())])), Some(None));
    assert_eq!(dropped_by(&table(false, &[("FORWARD", Vec::new())])), None);
}

#[test]
fn what_docker_lets_pass_is_not_of_pods() {
    let docker = [
        rule(&[], Verdict::Jump("DOCKER-USER".to_owned())),
        rule(
            &[link(Field::OutLink, "docker0\0").as_slice(), &[Step::State(6, true)]].concat(),
            Verdict::Accept,
        ),
        rule(&[Step::State(6, true)], Verdict::Accept),
        rule(&link(Field::InLink, "docker0\0"), Verdict::Accept),
    ];
    let chains = [("FORWARD", docker.to_vec()), ("DOCKER-USER", vec![rule(&[], Verdict::Return)])];
    assert_eq!(dropped_by(&table(true, &chains)), Some(None));
}

#[test]
fn a_rule_for_the_pool_or_for_pods_links_lets_them_pass() {
    for steps in [within(12, 244).to_vec(), within(16, 244).to_vec(), link(Field::InLink, "cali").to_vec()] {
        let chains = [("FORWARD", vec![rule(&steps, Verdict::Accept)])];
        assert_eq!(dropped_by(&table(true, &chains)), None, "{steps:?}");
    }
    let other = [("FORWARD", vec![rule(&within(12, 96), Verdict::Accept)])];
    assert_eq!(dropped_by(&table(true, &other)), Some(None));
}

#[test]
fn an_accept_in_one_base_chain_does_not_overrule_the_drop_of_another() {
    let accepts = table(false, &[("FORWARD", vec![rule(&[], Verdict::Accept)])]);
    let drops = Table { name: "other".to_owned(), ..table(true, &[("FORWARD", Vec::new())]) };
    let found = barriers(&[accepts, drops], &packet());
    assert_eq!(found.iter().map(|barrier| barrier.table.as_str()).collect::<Vec<_>>(), ["other"]);
}

#[test]
fn a_rejection_at_the_end_is_one_whatever_the_policy() {
    let chains = [
        ("FORWARD", vec![rule(&[], Verdict::Jump("zones".to_owned())), rule(&[], Verdict::Drop)]),
        ("zones", vec![rule(&[], Verdict::Goto("public".to_owned())), rule(&[], Verdict::Accept)]),
        ("public", vec![rule(&link(Field::InLink, "eth1\0"), Verdict::Accept)]),
    ];
    assert_eq!(dropped_by(&table(false, &chains)), Some(Some("FORWARD".to_owned())));
}

#[test]
fn what_is_not_known_is_no_barrier() {
    let perhaps = [("FORWARD", vec![rule(&[Step::Unknown], Verdict::Accept)])];
    assert_eq!(dropped_by(&table(true, &perhaps)), None);
    let gone = [("FORWARD", vec![rule(&[], Verdict::Jump("elsewhere".to_owned()))])];
    assert_eq!(dropped_by(&table(true, &gone)), None);
    let maybe_dropped = [("FORWARD", vec![rule(&[Step::Unknown], Verdict::Drop)])];
    assert_eq!(dropped_by(&table(false, &maybe_dropped)), None);
    let around = [("FORWARD", vec![rule(&[], Verdict::Jump("FORWARD".to_owned()))])];
    assert_eq!(dropped_by(&table(true, &around)), None, "and it ends");
}

#[test]
fn sets_of_addresses_ranges_and_verdicts_are_looked_up() {
    let load = Step::Load(REGISTER, Field::Network(12, 4));
    let set = |map| Step::In { register: REGISTER, set: "s".to_owned(), holds: true, map };
    let element = |key: [u8; 4], end| Element { key: key.to_vec(), end, range: true, verdict: None };
    let mut pools = table(true, &[("FORWARD", vec![rule(&[load, set(false)], Verdict::Accept)])]);
    assert_eq!(dropped_by(&pools), None, "a set that was not read may hold it");
    pools.sets.insert("s".to_owned(), vec![element([10, 244, 0, 0], false), element([10, 245, 0, 0], true)]);
    assert_eq!(dropped_by(&pools), None);
    pools.sets.insert("s".to_owned(), vec![element([10, 96, 0, 0], false), element([10, 97, 0, 0], true)]);
    assert_eq!(dropped_by(&pools), Some(None));

    let state = |bit: u32, verdict| Element {
        key: bit.to_ne_bytes().to_vec(),
        end: false,
        range: false,
        verdict: Some(verdict),
    };
    let mut map = table(true, &[("FORWARD", vec![vec![Step::Load(REGISTER, Field::State), set(true)]])]);
    map.sets.insert("s".to_owned(), vec![state(2, Verdict::Accept), state(1, Verdict::Drop)]);
    assert_eq!(dropped_by(&map), Some(None), "the first packet of a connection is not established");
    map.sets.insert("s".to_owned(), vec![state(8, Verdict::Accept)]);
    assert_eq!(dropped_by(&map), None);
}
