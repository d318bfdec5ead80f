//! Whether rules of nf_tables let packets between pods pass a node: what is known of a packet goes through the base chains
//! at the hook `forward`, step by step. What cannot be known of a packet, or of a rule, is taken to go either way, so that
//! only what is sure is told. Pure.
//!
//! An accept ends one base chain only: each of them must let the packet pass.

mod packet;
#[cfg(test)]
mod tests;

pub use packet::Packet;

use std::collections::BTreeMap;

use packet::Registers;

/// Chains within chains that are followed; the kernel allows 16.
const DEEPEST: usize = 16;
/// Rules that are looked at for one packet. What is behind them counts as unknown.
const MOST_RULES: usize = 100_000;

/// A family of tables that sees packets at the hook `forward`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
}

impl Family {
    /// As nft says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
        }
    }

    fn sees(self, packet: &Packet) -> bool {
        match self {
            Self::Ip => packet.is_v4(),
            Self::Ip6 => !packet.is_v4(),
            Self::Inet => true,
        }
    }
}

/// One table with a base chain at the hook `forward`, and all that this chain may lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// Its base chains at the hook, and whether each drops what it does not decide.
    pub bases: BTreeMap<String, bool>,
    /// The rules of its chains, each in their order.
    pub chains: BTreeMap<String, Vec<Vec<Step>>>,
    /// What its sets hold, as far as they could be read.
    pub sets: BTreeMap<String, Vec<Element>>,
}

/// One element of a set, or the end of a range of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// Its octets.
    pub key: Vec<u8>,
    /// Whether a range ends before it; else it holds itself, and what follows if the set is of ranges.
    pub end: bool,
    /// Whether its set is of ranges.
    pub range: bool,
    /// What becomes of packets that it fits, in a map of verdicts.
    pub verdict: Option<Verdict>,
}

/// What ends a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The packet leaves this base chain, and goes on.
    Accept,
    /// The packet ends.
    Drop,
    /// Another chain, and then the next rule.
    Jump(String),
    /// Another chain, and then what is behind this one.
    Goto(String),
    /// What is behind this chain.
    Return,
    /// The next rule.
    Continue,
    /// A program decides, or something that is not known.
    Other,
}

/// What a step loads into a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// Octets of the network header: from where, and how many.
    Network(usize, usize),
    /// The name of the link by which the packet came.
    InLink,
    /// The name of the link by which it leaves.
    OutLink,
    /// The number of the transport protocol.
    Protocol,
    /// The number of the address family.
    Family,
    /// The packet's mark.
    Mark,
    /// How its connection is, in bits.
    State,
    /// Whether its connection is translated and the like, in bits.
    Status,
    /// Something of this many octets that is not known.
    Unknown(usize),
}

/// One step of a rule. Registers are counted in words of four octets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Loads something into a register.
    Load(usize, Field),
    /// Keeps some bits of a register and turns some, into another.
    Bits {
        /// From there.
        from: usize,
        /// To there.
        to: usize,
        /// The bits that stay.
        mask: Vec<u8>,
        /// The bits that turn.
        turn: Vec<u8>,
    },
    /// Goes on if the register is, or is not, these octets.
    Is {
        /// The register.
        register: usize,
        /// The octets.
        octets: Vec<u8>,
        /// Whether it shall be these.
        holds: bool,
    },
    /// Goes on if the register is, or is not, in this set.
    In {
        /// The register.
        register: usize,
        /// The name of the set.
        set: String,
        /// Whether it shall be in it.
        holds: bool,
        /// Whether the set tells what becomes of the packet.
        map: bool,
    },
    /// Goes on if the connection of the packet is in one of these states, as bits; or if it is not.
    State(u16, bool),
    /// Goes on if the bits of the packet's mark that count are this; or if not.
    Mark(u32, bool),
    /// Decides.
    Decide(Verdict),
    /// Goes on and changes nothing of the packet that matters here.
    Nothing,
    /// Perhaps goes on, and may load something.
    Unknown,
}

/// What certainly does not let a packet pass.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Barrier {
    /// The family of the table.
    pub family: Family,
    /// The table.
    pub table: String,
    /// The base chain.
    pub chain: String,
    /// The chain of which a rule drops; `None`: it is the policy of the base chain.
    pub rule_in: Option<String>,
}

/// The base chains that certainly drop a packet.
pub fn barriers(tables: &[Table], packet: &Packet) -> Vec<Barrier> {
    let mut found = Vec::new();
    for table in tables.iter().filter(|table| table.family.sees(packet)) {
        for (chain, drops) in &table.bases {
            let mut walk = Walk { table, packet, left: MOST_RULES, dropped_in: None };
            let ends = walk.chain(chain, 0);
            let passes = ends.accepted || (ends.fell && !drops);
            if !passes && (ends.dropped || ends.fell) {
                let rule_in = walk.dropped_in.filter(|_| !ends.fell);
                let (table, chain) = (table.name.clone(), chain.clone());
                found.push(Barrier { family: walk.table.family, table, chain, rule_in });
            }
        }
    }
    found
}

/// How a packet may end; several where it is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Ends {
    accepted: bool,
    dropped: bool,
    /// Nothing decided.
    fell: bool,
}

impl Ends {
    const UNKNOWN: Self = Self { accepted: true, dropped: true, fell: true };

    fn or(self, other: Self) -> Self {
        Self {
            accepted: self.accepted || other.accepted,
            dropped: self.dropped || other.dropped,
            fell: self.fell || other.fell,
        }
    }
}

/// Whether something holds, where that may not be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Yes,
    No,
    Perhaps,
}

impl Answer {
    fn of(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }

    /// The same, or the contrary.
    fn is(self, wanted: bool) -> Self {
        match (self, wanted) {
            (Self::Yes, false) => Self::No,
            (Self::No, false) => Self::Yes,
            (same, _) => same,
        }
    }
}

/// A packet on its way through the chains of a table.
struct Walk<'a> {
    table: &'a Table,
    packet: &'a Packet,
    left: usize,
    dropped_in: Option<String>,
}

impl Walk<'_> {
    fn chain(&mut self, name: &str, depth: usize) -> Ends {
        let table = self.table;
        let Some(rules) = table.chains.get(name).filter(|_| depth < DEEPEST) else { return Ends::UNKNOWN };
        let mut ends = Ends::default();
        for rule in rules {
            let Some(left) = self.left.checked_sub(1) else { return Ends::UNKNOWN };
            self.left = left;
            let (fits, verdict) = self.rule(rule);
            if fits == Answer::No {
                continue;
            }
            let (end, goes_on) = self.decide(&verdict, name, depth);
            ends = ends.or(end);
            if fits == Answer::Yes && !goes_on {
                return ends;
            }
        }
        Ends { fell: true, ..ends }
    }

    /// How the packet may end by a verdict, and whether the next rule may come.
    fn decide(&mut self, verdict: &Verdict, chain: &str, depth: usize) -> (Ends, bool) {
        match verdict {
            Verdict::Accept => (Ends { accepted: true, ..Ends::default() }, false),
            Verdict::Drop => {
                // The last one is the sure one: nothing comes after it.
                self.dropped_in = Some(chain.to_owned());
                (Ends { dropped: true, ..Ends::default() }, false)
            }
            Verdict::Jump(other) => {
                let ends = self.chain(other, depth + 1);
                (Ends { fell: false, ..ends }, ends.fell)
            }
            Verdict::Goto(other) => (self.chain(other, depth + 1), false),
            Verdict::Return => (Ends { fell: true, ..Ends::default() }, false),
            Verdict::Continue => (Ends::default(), true),
            Verdict::Other => (Ends::UNKNOWN, true),
        }
    }

    /// Whether a rule fits the packet, and what it does then.
    fn rule(&self, steps: &[Step]) -> (Answer, Verdict) {
        let mut registers = Registers::default();
        let mut fits = Answer::Yes;
        for step in steps {
            let answer = match step {
                Step::Decide(verdict) => return (fits, verdict.clone()),
                Step::In { register, set, map: true, .. } => {
                    match self.looked_up(&registers, *register, set) {
                        Some(Some(verdict)) => return (fits, verdict),
                        Some(None) => Answer::No,
                        None => return (Answer::Perhaps, Verdict::Other),
                    }
                }
                other => self.step(other, &mut registers),
            };
            match answer {
                Answer::Yes => {}
                Answer::No => return (Answer::No, Verdict::Continue),
                Answer::Perhaps => fits = Answer::Perhaps,
            }
        }
        (fits, Verdict::Continue)
    }

    fn step(&self, step: &Step, registers: &mut Registers) -> Answer {
        match step {
            Step::Load(register, field) => {
                registers.write(*register, &self.packet.field(*field));
                Answer::Yes
            }
            Step::Bits { from, to, mask, turn } => {
                registers.bits(*from, *to, mask, turn);
                Answer::Yes
            }
            Step::Is { register, octets, holds } => registers.equal(*register, octets).is(*holds),
            Step::In { register, set, holds, .. } => {
                let found = self.looked_up(registers, *register, set);
                found.map_or(Answer::Perhaps, |found| Answer::of(found.is_some()).is(*holds))
            }
            Step::State(states, holds) => Answer::of(states & packet::STATE_NEW != 0).is(*holds),
            // Packets of pods bear no mark.
            Step::Mark(mark, holds) => Answer::of(*mark == 0).is(*holds),
            Step::Decide(_) | Step::Nothing => Answer::Yes,
            Step::Unknown => {
                *registers = Registers::default();
                Answer::Perhaps
            }
        }
    }

    /// What a set says of a register: `None` if that is not known, else its element's verdict if there is an element.
    fn looked_up(&self, registers: &Registers, register: usize, set: &str) -> Option<Option<Verdict>> {
        let elements = self.table.sets.get(set)?;
        let length = elements.first().map(|element| element.key.len());
        let Some(length) = length else { return Some(None) };
        let octets = registers.known(register, length)?;
        let found = elements.iter().filter(|element| match element.range {
            true => element.key <= octets,
            false => element.key == octets,
        });
        let found = found.max_by(|one, other| (&one.key, !one.end).cmp(&(&other.key, !other.end)));
        Some(
            found
                .filter(|element| !element.end)
                .map(|element| element.verdict.clone().unwrap_or(Verdict::Continue)),
        )
    }
}
