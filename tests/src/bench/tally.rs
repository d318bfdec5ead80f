//! The receiving end: cuts a stream of octets into messages and keeps count of the prefixes of an
//! [`Internet`] table in them.

use anyhow::{Context as _, Result, bail, ensure};

use super::feed::HEADER;
use super::internet::Internet;

/// What a receiver knows of a table.
#[derive(Debug)]
pub struct Tally {
    partial: Vec<u8>,
    known: Vec<State>,
    announced: u32,
    withdrawn: u32,
    updates: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unheard,
    Announced,
    Withdrawn,
}

impl Tally {
    /// Nothing heard of `routes` prefixes.
    pub fn new(routes: u32) -> Self {
        let known = vec![State::Unheard; routes as usize];
        Self { partial: Vec::new(), known, announced: 0, withdrawn: 0, updates: 0 }
    }

    /// Begins a new count.
    pub fn reset(&mut self) {
        self.known.fill(State::Unheard);
        (self.announced, self.withdrawn, self.updates) = (0, 0, 0);
    }

    /// Prefixes whose last word since the last reset was an announcement.
    pub fn announced(&self) -> u32 {
        self.announced
    }

    /// Prefixes whose last word since the last reset was a withdrawal.
    pub fn withdrawn(&self) -> u32 {
        self.withdrawn
    }

    /// UPDATE messages since the last reset.
    pub fn updates(&self) -> u32 {
        self.updates
    }

    /// Takes octets, cut anywhere.
    ///
    /// # Errors
    /// The octets are no BGP messages, or the other side ends the session.
    pub fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let mut partial = std::mem::take(&mut self.partial);
        let whole;
        let mut rest = if partial.is_empty() {
            bytes
        } else {
            partial.extend_from_slice(bytes);
            whole = partial;
            &whole
        };
        while let Some((header, _)) = rest.split_at_checked(HEADER) {
            let len = usize::from(u16::from_be_bytes([header[16], header[17]]));
            let Some((message, more)) = rest.split_at_checked(len) else { break };
            ensure!(len >= HEADER, "a message of {len} octets");
            match header[18] {
                2 => self.update(&message[HEADER..]).context("a broken UPDATE")?,
                3 => bail!("the session was ended: {:?}", &message[HEADER..]),
                _ => {}
            }
            rest = more;
        }
        self.partial = rest.to_vec();
        Ok(())
    }

    fn update(&mut self, body: &[u8]) -> Option<()> {
        self.updates += 1;
        let (withdrawn, rest) = counted(body)?;
        let (mut attributes, nlri) = counted(rest)?;
        self.prefixes(withdrawn, false, State::Withdrawn)?;
        self.prefixes(nlri, false, State::Announced)?;
        while let [flags, code, tail @ ..] = attributes {
            let (value, next) = if flags & 0x10 != 0 {
                counted(tail)?
            } else {
                let (len, tail) = tail.split_first()?;
                tail.split_at_checked(usize::from(*len))?
            };
            let six = value.get(..2) == Some(&[0, 2]);
            match code {
                14 => {
                    let hop = usize::from(*value.get(3)?);
                    self.prefixes(value.get(5 + hop..)?, six, State::Announced)?;
                }
                15 => self.prefixes(value.get(3..)?, six, State::Withdrawn)?,
                _ => {}
            }
            attributes = next;
        }
        Some(())
    }

    fn prefixes(&mut self, mut nlri: &[u8], six: bool, state: State) -> Option<()> {
        while let Some((len, tail)) = nlri.split_first() {
            let (octets, next) = tail.split_at_checked(usize::from(len.div_ceil(8)))?;
            if let Some(index) = index(*len, octets, six) {
                self.note(index, state);
            }
            nlri = next;
        }
        Some(())
    }

    fn note(&mut self, index: u32, state: State) {
        let Some(known) = self.known.get_mut(index as usize) else { return };
        match std::mem::replace(known, state) {
            State::Announced => self.announced -= 1,
            State::Withdrawn => self.withdrawn -= 1,
            State::Unheard => {}
        }
        match state {
            State::Announced => self.announced += 1,
            State::Withdrawn => self.withdrawn += 1,
            State::Unheard => {}
        }
    }
}

/// The number of a prefix in an [`Internet`] table; `None` if it is in none.
fn index(len: u8, octets: &[u8], six: bool) -> Option<u32> {
    match (len, octets, six) {
        (24, [a, b, c], false) => u32::from_be_bytes([*a, *b, *c, 0])
            .checked_sub(Internet::FIRST_V4.to_bits())
            .map(|offset| offset >> 8),
        (48, [a, b, c, d, e, f], true) => {
            let [high, low, ..] = Internet::FIRST_V6.octets();
            (*a == high && *b == low).then(|| u32::from_be_bytes([*c, *d, *e, *f]))
        }
        _ => None,
    }
}

/// Splits a field behind its length of two octets off.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
}

#[cfg(test)]
mod tests {
    use super::super::internet::Towards;
    use super::*;

    #[test]
    fn octets_may_be_cut_anywhere() {
        let towards = Towards::V4([10, 98, 0, 2].into());
        let table = Internet { asn: 65100, routes: 300, towards, edition: 1 };
        let mut tally = Tally::new(table.routes);
        for part in table.updates().chunks(7) {
            tally.take(part).expect("well formed");
        }
        assert_eq!(tally.announced(), 300);
        tally.reset();
        assert_eq!(tally.announced(), 0);
    }
}
