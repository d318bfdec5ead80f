//! The block against a list of addresses in the order of their last use.

use proptest::prelude::*;

use super::*;
use crate::name::Family;

#[derive(Debug, Clone)]
enum Step {
    TakeNext,
    Take(u32),
    PutBack(u32),
    Reserve(Vec<u32>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::TakeNext),
        2 => (0u32..140).prop_map(Step::Take),
        4 => (0u32..140).prop_map(Step::PutBack),
        1 => prop::collection::vec(0u32..140, 0..5).prop_map(Step::Reserve),
    ]
}

proptest! {
    #[test]
    fn a_block_gives_the_address_unused_for_longest(
        len in 25u8..=32, steps in prop::collection::vec(step(), 0..400),
    ) {
        let id = BlockId::around("10.1.2.0".parse().unwrap(), len);
        let address = |offset: u32| from_bits(Family::V4, to_bits(id.first()) + u128::from(offset));
        let mut block = Block::new(id);
        let mut order: Vec<IpAddr> = id.cidr().iter().collect();
        let mut reserved: Vec<IpAddr> = Vec::new();
        for step in steps {
            match step {
                Step::TakeNext => {
                    let next = order.iter().copied().find(|address| !reserved.contains(address));
                    prop_assert_eq!(block.next(), next);
                    if let Some(next) = next {
                        block.take(next);
                        order.retain(|address| *address != next);
                    }
                }
                Step::Take(offset) => {
                    block.take(address(offset));
                    order.retain(|other| *other != address(offset));
                }
                Step::PutBack(offset) => {
                    block.put_back(address(offset));
                    if id.contains(address(offset)) && !order.contains(&address(offset)) {
                        order.push(address(offset));
                    }
                }
                Step::Reserve(offsets) => {
                    reserved = offsets.into_iter().map(address).collect();
                    let mut pool = Pool::new("pool", "10.0.0.0/8".parse().unwrap(), len).unwrap();
                    pool.reserved = reserved.iter().map(|address| (*address).into()).collect();
                    block.reserve(Some(&pool), &BTreeSet::new());
                }
            }
            let free = order.iter().filter(|address| !reserved.contains(address)).count();
            prop_assert_eq!(block.free() as usize, free);
            prop_assert_eq!(block.out() as usize, id.size() as usize - order.len());
        }
    }
}

#[test]
fn the_first_and_the_last_address_of_a_block_are_given_too() {
    let block = Block::new("10.0.0.0/24".parse().unwrap());
    assert_eq!((block.free(), block.next()), (256, Some("10.0.0.0".parse().unwrap())));
    let block = Block::new("fd00::/112".parse().unwrap());
    assert_eq!((block.free(), block.next()), (65536, Some("fd00::".parse().unwrap())));
}
