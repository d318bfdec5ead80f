//! Names of blocks, both ways.

use proptest::prelude::*;

use super::*;

#[test]
fn blocks_print_parse_and_name_themselves() {
    let table = [
        ("10.244.3.64/26", "10-244-3-64-26", 64),
        ("10.0.0.1/32", "10-0-0-1-32", 1),
        ("fd00:10:244::40/122", "fd00-10-244--40-122", 64),
        ("fd00::1:0/112", "fd00--1-0-112", 65536),
    ];
    for (cidr, name, size) in table {
        let block: BlockId = cidr.parse().unwrap();
        assert_eq!((block.to_string().as_str(), block.name().as_str(), block.size()), (cidr, name, size));
    }
}

#[test]
fn what_is_no_block_is_refused_with_the_reason() {
    let why = |text: &str| text.parse::<BlockId>().unwrap_err().to_string();
    assert_eq!(why("10.0.0.1/26"), "10.0.0.1/26 has bits set behind its prefix: its network is 10.0.0.0/26");
    assert_eq!(why("10.0.0.0"), "\"10.0.0.0\" is not a network such as 10.244.3.64/26");
    assert_eq!(why("10.0.0.0/33"), "\"10.0.0.0/33\" is not a network such as 10.244.3.64/26");
}

#[test]
fn a_block_in_json_is_its_cidr_and_checked() {
    let block: BlockId = serde_json::from_str("\"10.0.0.0/26\"").unwrap();
    assert_eq!(serde_json::to_string(&block).unwrap(), "\"10.0.0.0/26\"");
    assert!(serde_json::from_str::<BlockId>("\"10.0.0.1/26\"").is_err());
}

proptest! {
    #[test]
    fn the_block_around_an_address_holds_it_from_first_to_last(v6: bool, bits: u128, len in 0u8..=128) {
        let family = if v6 { Family::V6 } else { Family::V4 };
        let address = from_bits(family, bits);
        let block = BlockId::around(address, len);
        prop_assert!(block.contains(address) && block.contains(block.first()) && block.contains(block.last()));
        prop_assert!(block.first() <= address && address <= block.last());
        prop_assert_eq!(BlockId::new(block.cidr()), Ok(block));
        prop_assert_eq!(block.to_string().parse::<BlockId>(), Ok(block));
        let span = to_bits(block.last()) - to_bits(block.first());
        prop_assert_eq!(block.size(), u32::try_from(span.saturating_add(1)).unwrap_or(u32::MAX));
    }

    #[test]
    fn two_blocks_never_share_a_name(a: (bool, u128, u8), b: (bool, u128, u8)) {
        let block = |(v6, bits, len): (bool, u128, u8)| {
            let family = if v6 { Family::V6 } else { Family::V4 };
            BlockId::around(from_bits(family, bits & (bits >> 64)), len)
        };
        let (a, b) = (block(a), block(b));
        prop_assert_eq!(a == b, a.name() == b.name());
    }
}
