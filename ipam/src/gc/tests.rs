//! Whose blocks go, and when.

use super::*;

const GRACE: Duration = Duration::from_secs(600);

#[expect(clippy::disallowed_methods, reason = "any instant will do as a beginning")]
fn start() -> Instant {
    Instant::now()
}

fn verdict(life: Option<NodeLife>, now: Instant) -> usize {
    let block: BlockId = "10.0.0.0/26".parse().unwrap();
    let nodes = life.map(|life| ("node1".into(), life)).into_iter().collect();
    garbage(&[(block, "node1".into())].into(), &nodes, GRACE, now).len()
}

#[test]
fn blocks_go_when_their_node_is_gone_and_its_agent_silent_for_the_grace() {
    let start = start();
    let later = start + GRACE;
    let just_before = later - Duration::from_millis(1);
    let seen = |agent_seen| NodeLife { agent_seen: Some(agent_seen), ..NodeLife::gone(start) };
    let table = [
        ("an unknown node keeps its blocks", None, later, 0),
        ("so does one that exists", Some(NodeLife::present()), later, 0),
        ("and one that is gone for less than the grace", Some(NodeLife::gone(start)), just_before, 0),
        ("but not for the grace", Some(NodeLife::gone(start)), later, 1),
        ("unless its agent was seen since", Some(seen(start + Duration::from_secs(1))), later, 0),
        ("and has been silent for the grace too", Some(seen(start)), later, 1),
        ("a clock that ran back proves nothing", Some(NodeLife::gone(later)), start, 0),
    ];
    for (what, life, now, expected) in table {
        assert_eq!(verdict(life, now), expected, "{what}");
    }
}

#[test]
fn only_the_blocks_of_the_dead_go() {
    let start = start();
    let blocks = [("10.0.0.0/26", "dead"), ("10.0.0.64/26", "alive"), ("fd00::/122", "dead")];
    let blocks = blocks.map(|(block, node)| (block.parse().unwrap(), node.into())).into();
    let nodes = [("dead".into(), NodeLife::gone(start)), ("alive".into(), NodeLife::present())].into();
    let gone: Vec<String> =
        garbage(&blocks, &nodes, GRACE, start + GRACE).iter().map(BlockId::to_string).collect();
    assert_eq!(gone, ["10.0.0.0/26", "fd00::/122"]);
}
