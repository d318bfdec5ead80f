//! Any octets are survived, and what is written is what is read.

use manx_bgp::wire::{
    self, Announcement, Attributes, Decoded, Dialect, Framer, Message, Nlri, Notification, Side, Update,
};
use manx_bgp::{Families, Family};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::octets::{decode, encode, message};
use crate::strategies;

/// Decodes all messages in `octets` and joins what their UPDATEs say.
fn decode_updates(octets: &[u8], dialect: &Dialect) -> Update {
    let mut framer = Framer::new();
    if dialect.extended_messages {
        framer.allow_extended_messages();
    }
    let mut joined = Update::default();
    let mut input = octets;
    while let Some(frame) = framer.next(&mut input).expect("sound frames") {
        let Decoded { message, faults } = wire::decode(frame, dialect).expect("a sound message");
        assert_eq!(faults, []);
        let Message::Update(update) = message else { panic!("not an UPDATE: {message:?}") };
        joined.withdrawn.extend(update.withdrawn);
        for announcement in update.announced {
            match joined.announced.last_mut() {
                Some(last)
                    if last.attributes == announcement.attributes
                        && last.prefixes[0].family() == announcement.prefixes[0].family() =>
                {
                    last.prefixes.extend(announcement.prefixes);
                }
                _ => joined.announced.push(announcement),
            }
        }
    }
    joined
}

/// What arrives of an update: nothing that stays inside goes to an external peer.
fn as_told(update: &Update, dialect: &Dialect) -> Update {
    let told = |attributes: &Attributes| match dialect.side {
        Side::Internal => attributes.clone(),
        Side::External => {
            Attributes { local_pref: None, originator_id: None, cluster_list: vec![], ..attributes.clone() }
        }
    };
    let nlri = |it: &Nlri| if dialect.paths_out.contains(it.family()) { *it } else { it.prefix.into() };
    let announced = update
        .announced
        .iter()
        .map(|it| Announcement::new(told(&it.attributes), it.prefixes.iter().map(nlri)));
    let announced = announced.collect();
    Update { withdrawn: update.withdrawn.iter().map(nlri).collect(), announced }
}

/// An upper bound of the octets that a decoded message owns.
fn owned(decoded: &Decoded) -> usize {
    let faults: usize = decoded.faults.iter().map(|fault| fault.bytes.len() + size_of_val(fault)).sum();
    let message = match &decoded.message {
        Message::Update(update) => {
            let announced = update.announced.iter().map(|it| {
                let a = &it.attributes;
                let unknown: usize = a.unknown.iter().map(|it| it.value.len() + size_of_val(it)).sum();
                it.prefixes.capacity() * 24
                    + a.as_path.asns().len() * 4
                    + a.as_path.segments().count() * 16
                    + (a.communities.len() * 4
                        + a.extended_communities.len() * 8
                        + a.large_communities.len() * 12)
                        * 2
                    + a.cluster_list.len() * 4
                    + unknown
                    + size_of_val(a)
            });
            update.withdrawn.capacity() * 24 + announced.sum::<usize>()
        }
        Message::Open(open) => open.capabilities.len() * 64,
        Message::Notification(notification) => notification.data.len(),
        Message::EndOfRib(_) | Message::Keepalive | Message::RouteRefresh(_) => 0,
    };
    message + faults
}

/// Feeds anything to the codec; whatever comes out is small and can be told again.
fn survive(octets: &[u8], dialect: &Dialect) -> Result<(), TestCaseError> {
    let mut framer = Framer::new();
    if dialect.extended_messages {
        framer.allow_extended_messages();
    }
    let mut input = octets;
    loop {
        let frame = match framer.next(&mut input) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(()),
            Err(error) => {
                let _ = Notification::from(&error).to_string();
                return Ok(());
            }
        };
        let len = frame.octets().len();
        match wire::decode(frame, dialect) {
            Ok(decoded) => {
                prop_assert!(owned(&decoded) <= 2048 + 52 * len, "{} octets from {len}", owned(&decoded));
                let _ = format!("{decoded:?}");
                for fault in &decoded.faults {
                    let _ = (fault.to_string(), fault.notification().to_string());
                }
                told_again_is_the_same(&decoded.message, dialect)?;
            }
            Err(error) => {
                let _ = (error.to_string(), Notification::from(&error).to_string());
            }
        }
    }
}

/// What was decoded, encoded, decodes to the same and encodes to the same octets.
fn told_again_is_the_same(message: &Message, dialect: &Dialect) -> Result<(), TestCaseError> {
    let mut octets = Vec::new();
    if wire::encode(message, dialect, &mut octets).is_err() {
        return Ok(());
    }
    let again = match message {
        Message::Update(update) => {
            let again = decode_updates(&octets, dialect);
            prop_assert_eq!(&again.withdrawn, &update.withdrawn);
            if let ([one], [other]) = (again.announced.as_slice(), update.announced.as_slice()) {
                prop_assert_eq!(one, other);
            }
            Message::Update(again)
        }
        _ => {
            let decoded = decode(&octets, dialect).expect("a sound message");
            prop_assert_eq!(&decoded.message, message);
            decoded.message
        }
    };
    prop_assert_eq!(encode(&again, dialect), octets);
    Ok(())
}

/// A dialect of any sort, families included.
fn any_dialect() -> impl Strategy<Value = Dialect> {
    (strategies::dialect(), any::<[bool; 2]>()).prop_map(|(dialect, [ipv4, ipv6])| {
        let wanted = [(ipv4, Family::Ipv4Unicast), (ipv6, Family::Ipv6Unicast)];
        let families = wanted.into_iter().filter(|(wanted, _)| *wanted).map(|(_, family)| family);
        Dialect { families: Families::from_iter(families), ..dialect }
    })
}

fn any_message() -> impl Strategy<Value = Message> {
    prop_oneof![strategies::update().prop_map(Message::Update), any_message_but_update()]
}

fn any_message_but_update() -> impl Strategy<Value = Message> {
    prop_oneof![
        strategies::open(6).prop_map(Message::Open),
        strategies::notification().prop_map(Message::Notification),
        strategies::refresh().prop_map(Message::RouteRefresh),
        strategies::family().prop_map(Message::EndOfRib),
        Just(Message::Keepalive),
    ]
}

/// One change to a message.
#[derive(Clone, Debug)]
enum Mutation {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, u8),
    Splice(Index, Index, u8),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let interesting =
        prop_oneof![any::<u8>(), Just(0), Just(1), Just(0xff), Just(0x80), Just(0x7f), 1..36_u8];
    prop_oneof![
        4 => (any::<Index>(), interesting).prop_map(|(at, value)| Mutation::Set(at, value)),
        2 => (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        1 => (any::<Index>(), vec(any::<u8>(), 1..8)).prop_map(|(at, octets)| Mutation::Insert(at, octets)),
        1 => (any::<Index>(), 1..8_u8).prop_map(|(at, count)| Mutation::Remove(at, count)),
        1 => (any::<Index>(), any::<Index>(), 1..30_u8).prop_map(|(from, to, len)| Mutation::Splice(from, to, len)),
    ]
}

/// Changes the body of a message and repairs the length in its header.
fn mutate(octets: &[u8], mutations: &[Mutation]) -> Vec<u8> {
    let mut body = octets[19..].to_vec();
    for mutation in mutations {
        if body.is_empty() {
            break;
        }
        match mutation {
            Mutation::Set(at, value) => *at.get_mut(&mut body) = *value,
            Mutation::Flip(at, bit) => *at.get_mut(&mut body) ^= 1 << bit,
            Mutation::Insert(at, octets) => {
                let at = at.index(body.len());
                body.splice(at..at, octets.iter().copied());
            }
            Mutation::Remove(at, count) => {
                let at = at.index(body.len());
                let end = body.len().min(at + usize::from(*count));
                body.drain(at..end);
            }
            Mutation::Splice(from, to, len) => {
                let from = from.index(body.len());
                let part = body[from..body.len().min(from + usize::from(*len))].to_vec();
                let to = to.index(body.len());
                body.splice(to..to, part);
            }
        }
    }
    message(octets[18], &body)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn an_update_is_read_as_it_was_written(update in strategies::update(), dialect in strategies::dialect()) {
        let octets = encode(&Message::Update(update.clone()), &dialect);
        prop_assert_eq!(decode_updates(&octets, &dialect), as_told(&update, &dialect));
    }

    #[test]
    fn any_other_message_is_read_as_it_was_written(
        message in any_message_but_update(), dialect in strategies::dialect()) {
        prop_assert_eq!(decode(&encode(&message, &dialect), &dialect).unwrap(), Decoded::from(message));
    }

    #[test]
    fn a_message_that_was_tampered_with_is_survived(
        message in any_message(),
        mutations in vec(mutation(), 0..6),
        dialect in any_dialect(),
    ) {
        let full = Dialect { families: Families::ALL, ..dialect };
        survive(&mutate(&encode(&message, &full), &mutations), &dialect)?;
    }

    #[test]
    fn any_body_is_survived(kind in 1..=5_u8, body in vec(any::<u8>(), 0..200), dialect in any_dialect()) {
        survive(&message(kind, &body), &dialect)?;
    }

    #[test]
    fn any_attributes_are_survived(
        list in vec((prop_oneof![Just(0x40_u8), Just(0x80), Just(0xc0), any::<u8>()], prop_oneof![1..36_u8, any::<u8>()],
            vec(prop_oneof![any::<u8>(), 0..4_u8], 0..40)), 0..12),
        nlri in vec(prop_oneof![any::<u8>(), 0..33_u8], 0..12),
        dialect in any_dialect(),
    ) {
        let list: Vec<u8> =
            list.iter().flat_map(|(flags, code, value)| crate::octets::attribute(flags & 0xef, *code, value)).collect();
        survive(&crate::octets::update(&[], &list, &nlri), &dialect)?;
    }

    #[test]
    fn any_stream_is_survived(stream in vec(any::<u8>(), 0..100), marker in any::<bool>(), dialect in any_dialect()) {
        let stream = if marker { [[0xff; 16].to_vec(), stream].concat() } else { stream };
        survive(&stream, &dialect)?;
    }

    #[test]
    fn the_framer_gives_the_same_messages_however_reads_divide_them(
        messages in vec(any_message(), 1..6),
        sizes in vec(1..200_usize, 1..40),
    ) {
        let dialect = crate::octets::dialect(Side::Internal);
        let parts: Vec<Vec<u8>> = messages.iter().map(|message| encode(message, &dialect)).collect();
        let stream = parts.concat();
        let mut framer = Framer::new();
        let (mut found, mut rest, mut sizes) = (Vec::new(), stream.as_slice(), sizes.iter().cycle());
        while !rest.is_empty() {
            let size = rest.len().min(*sizes.next().expect("sizes repeat"));
            let mut read;
            (read, rest) = rest.split_at(size);
            while let Some(frame) = framer.next(&mut read).unwrap() {
                found.push(frame.octets().to_vec());
            }
        }
        prop_assert_eq!(found, parts);
    }
}

#[test]
fn the_largest_messages_of_the_smallest_things_stay_small() {
    let dialect = Dialect { extended_messages: true, ..crate::octets::dialect(Side::Internal) };
    let default_routes = message(2, &[vec![0, 0, 0, 0], vec![0; 65_000]].concat());
    let withdrawn = crate::octets::update(&vec![0; 65_000], &[], &[]);
    let mut communities = crate::octets::hex("400101 00 400200 400304 c0000201");
    communities.extend(crate::octets::attribute(
        0xc0,
        8,
        &(0..60_000).map(|n| (n % 251) as u8).collect::<Vec<_>>(),
    ));
    let communities = crate::octets::update(&[], &communities, &[8, 10]);
    let unknown: Vec<u8> = (0..20_000_u32).flat_map(|n| [0xc0, (n % 256) as u8, 0]).collect();
    let unknown = crate::octets::update(&[], &unknown, &[8, 10]);
    for octets in [default_routes, withdrawn, communities, unknown] {
        if let Ok(decoded) = decode(&octets, &dialect) {
            assert!(owned(&decoded) <= 40 * octets.len(), "{} octets from {}", owned(&decoded), octets.len());
        }
    }
}
