//! Netlink messages as bytes: a builder for batches of requests and a reader for what comes back.
//!
//! A message is a header, a fixed body that depends on its kind, and attributes. Nothing here knows what the
//! kinds mean, and nothing here does input or output.

use std::net::IpAddr;

use nix::libc;

/// Octets of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// Octets of `struct nlattr`.
const ATTRIBUTE_HEADER: usize = 4;
/// The bits of an attribute's kind that name it; the others are flags.
const KIND_MASK: u16 = 0x3fff;

/// Some netlink messages that go to the kernel in one `sendmsg`.
///
/// Sequence numbers and the acknowledgement are filled in by [`Socket::send`](super::socket::Socket::send).
#[derive(Debug, Default, Clone)]
pub struct Batch {
    bytes: Vec<u8>,
    starts: Vec<usize>,
    acknowledged: Option<usize>,
}

impl Batch {
    /// Makes an empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a batch of a single message; see [`Batch::push`].
    pub fn of(kind: u16, flags: i32, body: &[u8], fill: impl FnOnce(&mut Attributes<'_>)) -> Self {
        let mut batch = Self::new();
        batch.push(kind, flags, body, fill);
        batch
    }

    /// Appends a message of `kind` (`RTM_NEWROUTE`, …) with `NLM_F_REQUEST` and the given further `flags`, the
    /// fixed `body` (padded to four octets) and the attributes that `fill` writes.
    pub fn push(&mut self, kind: u16, flags: i32, body: &[u8], fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.bytes.len();
        self.starts.push(start);
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST).expect("netlink message flags have 16 bits");
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(body);
        pad(&mut self.bytes);
        fill(&mut Attributes { bytes: &mut self.bytes });
        let length = u32::try_from(self.bytes.len() - start).expect("a netlink message is far below 4 GiB");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Makes the message pushed last the one whose acknowledgement ends the exchange, instead of the last of
    /// the whole batch. (nf_tables acknowledges what is inside its transaction, not the end of it.)
    pub fn acknowledge_here(&mut self) {
        self.acknowledged = self.starts.len().checked_sub(1);
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there are no messages.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// How many octets the messages take.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
        self.acknowledged = None;
    }

    /// The index of the message that is to be acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.unwrap_or_else(|| self.starts.len().saturating_sub(1))
    }

    /// Numbers the messages from `first` on, asks for the acknowledgement if `acknowledge`, and returns the bytes.
    pub(crate) fn seal(&mut self, first: u32, acknowledge: bool) -> &[u8] {
        let acknowledged = self.acknowledged();
        let mut sequence = first;
        for (index, &start) in self.starts.iter().enumerate() {
            if acknowledge && index == acknowledged {
                let [low, high] = (libc::NLM_F_ACK as u16).to_ne_bytes();
                self.bytes[start + 6] |= low;
                self.bytes[start + 7] |= high;
            }
            self.bytes[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
            sequence = sequence.wrapping_add(1);
        }
        &self.bytes
    }
}

/// Writes the attributes of a message, or of an attribute that holds attributes.
#[derive(Debug)]
pub struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    /// The attributes that `fill` writes, by themselves.
    pub(crate) fn standalone(fill: impl FnOnce(&mut Attributes<'_>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        fill(&mut Attributes { bytes: &mut bytes });
        bytes
    }

    /// Appends an attribute with these octets.
    ///
    /// # Panics
    ///
    /// If `value` is longer than an attribute can be (65 531 octets).
    pub fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value);
        self.close(start);
        self
    }

    /// Appends an attribute without a value.
    pub fn put_flag(&mut self, kind: u16) -> &mut Self {
        self.put(kind, &[])
    }

    /// Appends one octet.
    pub fn put_u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.put(kind, &[value])
    }

    /// Appends a 16-bit number in the machine's byte order.
    pub fn put_u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Appends a 32-bit number in the machine's byte order.
    pub fn put_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Appends a 32-bit number in network byte order, as netfilter wants its numbers.
    pub fn put_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Appends a string and the zero that ends it.
    pub fn put_str(&mut self, kind: u16, value: &str) -> &mut Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.close(start);
        self
    }

    /// Appends an address: four or sixteen octets.
    pub fn put_ip(&mut self, kind: u16, value: IpAddr) -> &mut Self {
        match value {
            IpAddr::V4(address) => self.put(kind, &address.octets()),
            IpAddr::V6(address) => self.put(kind, &address.octets()),
        }
    }

    /// Appends an attribute that holds the attributes that `fill` writes.
    ///
    /// # Panics
    ///
    /// If they take more than 65 531 octets.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        self.nest_after(kind, &[], fill)
    }

    /// Like [`Attributes::nest`], with a fixed `body` before the inner attributes, as `VETH_INFO_PEER` has.
    ///
    /// # Panics
    ///
    /// If all of it takes more than 65 531 octets.
    pub fn nest_after(
        &mut self,
        kind: u16,
        body: &[u8],
        fill: impl FnOnce(&mut Attributes<'_>),
    ) -> &mut Self {
        let start = self.open(kind | libc::NLA_F_NESTED as u16);
        self.bytes.extend_from_slice(body);
        pad(self.bytes);
        fill(&mut Attributes { bytes: self.bytes });
        self.close(start);
        self
    }

    /// Appends one `struct rtnexthop` of `RTA_MULTIPATH`: a link and the attributes that `fill` writes.
    ///
    /// # Panics
    ///
    /// If they take more than 65 527 octets.
    pub fn put_rtnexthop(&mut self, link: u32, fill: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        let start = self.open(0);
        self.bytes.extend_from_slice(&link.to_ne_bytes());
        fill(&mut Attributes { bytes: self.bytes });
        self.close(start);
        self
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        let length = u16::try_from(self.bytes.len() - start).expect("a netlink attribute fits in 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        pad(self.bytes);
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// One message that the kernel sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// `RTM_NEWROUTE`, `NLMSG_ERROR`, …
    pub kind: u16,
    /// `NLM_F_MULTI`, …
    pub flags: u16,
    /// The number of the request that it answers; 0 in a notification.
    pub sequence: u32,
    /// The port of the socket whose request led to it; 0 when the kernel acted on its own.
    pub port: u32,
    /// Fixed body and attributes.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The first `N` octets of the payload, if there are so many.
    pub fn body<const N: usize>(&self) -> Option<[u8; N]> {
        self.payload.first_chunk().copied()
    }

    /// The attributes that follow a fixed body of `body` octets.
    pub fn attributes(&self, body: usize) -> AttributeIter<'a> {
        attributes(self.payload.get(body.next_multiple_of(4)..).unwrap_or_default())
    }

    /// The value of the first of these attributes that is of this kind.
    pub fn attribute(&self, body: usize, kind: u16) -> Option<&'a [u8]> {
        self.attributes(body).of_kind(kind)
    }
}

/// The messages in a datagram. Stops at the first that is malformed.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let header: [u8; HEADER] = rest.first_chunk().copied()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let payload = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            port: u32::from_ne_bytes([header[12], header[13], header[14], header[15]]),
            payload,
        })
    })
}

/// The attributes in `bytes`. Stops at the first that is malformed.
pub fn attributes(bytes: &[u8]) -> AttributeIter<'_> {
    AttributeIter { rest: bytes }
}

/// The value of the first attribute in `bytes` that is of this kind.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).of_kind(kind)
}

/// Iterator over attributes as (kind without flags, value).
#[derive(Debug, Clone)]
pub struct AttributeIter<'a> {
    rest: &'a [u8],
}

impl<'a> AttributeIter<'a> {
    fn of_kind(mut self, wanted: u16) -> Option<&'a [u8]> {
        self.find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    }
}

impl<'a> Iterator for AttributeIter<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header: [u8; ATTRIBUTE_HEADER] = self.rest.first_chunk().copied()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = self.rest.get(ATTRIBUTE_HEADER..length)?;
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([header[2], header[3]]) & KIND_MASK, value))
    }
}

/// Reads a 32-bit number in the machine's byte order.
pub fn read_u32(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|octets| u32::from_ne_bytes(*octets))
}

/// Reads an address of four or sixteen octets.
pub fn read_ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Reads a string up to the zero that ends it; octets that are not UTF-8 are replaced.
pub fn read_str(value: &[u8]) -> String {
    let text = value.split(|&octet| octet == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut batch = Batch::new();
        batch.push(16, libc::NLM_F_DUMP, &[1, 2, 3], |attributes| {
            attributes.put_str(3, "eth0").nest(18, |inner| {
                inner.put_u8(1, 7).put_u32(2, 0xdead_beef);
            });
        });
        batch.push(24, 0, &[], |attributes| {
            attributes.put_ip(1, "192.0.2.1".parse().unwrap());
        });
        let bytes = batch.seal(41, true).to_vec();
        let read: Vec<_> = messages(&bytes).collect();
        assert_eq!((read[0].kind, read[0].sequence, read[1].sequence), (16, 41, 42));
        assert_eq!(read[0].flags & libc::NLM_F_ACK as u16, 0);
        assert_ne!(read[1].flags & libc::NLM_F_ACK as u16, 0);
        assert_eq!(read[0].body::<3>(), Some([1, 2, 3]));
        let outer: Vec<_> = read[0].attributes(3).collect();
        assert_eq!(read_str(outer[0].1), "eth0");
        assert_eq!(outer[1].0, 18);
        let inner: Vec<_> = attributes(outer[1].1).collect();
        assert_eq!(inner[0], (1, &[7][..]));
        assert_eq!(read_u32(inner[1].1), Some(0xdead_beef));
        assert_eq!(read_ip(read[1].attributes(0).next().unwrap().1), Some("192.0.2.1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_readers_panic_or_loop(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(attributes(&bytes).count() <= bytes.len());
            for message in messages(&bytes).take(bytes.len() + 1) {
                let _ = message.attributes(12).count();
            }
        }
    }
}
