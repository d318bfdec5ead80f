//! From a stream of octets to whole messages (RFC 4271 §4.1, RFC 8654).

use super::MessageType;
use super::error::FrameError;
use super::reader::Reader;

/// The length of a message header.
pub const HEADER_LEN: usize = 19;
/// The longest message without RFC 8654, and the longest OPEN and KEEPALIVE with it.
pub const PLAIN_LIMIT: usize = 4096;
/// The longest message with RFC 8654.
pub const EXTENDED_LIMIT: usize = 65535;

const MARKER: [u8; 16] = [0xff; 16];

/// One whole message whose header was found good.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    kind: MessageType,
    octets: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The type of the message.
    pub const fn kind(&self) -> MessageType {
        self.kind
    }

    /// The message with its header.
    pub const fn octets(&self) -> &'a [u8] {
        self.octets
    }

    /// The message without its header.
    pub fn body(&self) -> &'a [u8] {
        self.octets.get(HEADER_LEN..).unwrap_or_default()
    }

    /// The length of the message with its header, which the header itself bounds.
    pub(super) fn length(&self) -> u16 {
        u16::try_from(self.octets.len()).unwrap_or(u16::MAX)
    }
}

/// Cuts what arrives on a connection into messages.
///
/// A message that lies whole in the input is given out without being copied; only the part of a message
/// that the input ends with is kept, so that a framer never holds more than one message. After an error
/// the stream has no meaning any more and the framer must be dropped with its connection.
#[derive(Debug, Default)]
pub struct Framer {
    /// The beginning of a message that is not whole yet, or the message given out last.
    partial: Vec<u8>,
    /// `partial` was given out and may go.
    spent: bool,
    extended: bool,
}

impl Framer {
    /// A framer at the beginning of a connection: no message may exceed 4096 octets.
    pub fn new() -> Self {
        Self::default()
    }

    /// From the next message on, what is neither OPEN nor KEEPALIVE may be up to 65535 octets long
    /// (RFC 8654 §3).
    pub const fn allow_extended_messages(&mut self) {
        self.extended = true;
    }

    /// Takes the next message off the front of `input`. `None` says that the input is used up.
    ///
    /// # Errors
    /// [`FrameError::Marker`], [`FrameError::Length`] or [`FrameError::Type`], as soon as the header
    /// shows it, even if the rest of the message has not arrived.
    pub fn next<'f, 'i: 'f>(&'f mut self, input: &mut &'i [u8]) -> Result<Option<Frame<'f>>, FrameError> {
        if self.spent {
            self.partial.clear();
            self.spent = false;
        }
        if self.partial.is_empty() {
            return self.next_in_place(input);
        }
        self.fill(input, HEADER_LEN);
        let Some((kind, len)) = self.header(&self.partial)? else { return Ok(None) };
        self.fill(input, len);
        if self.partial.len() < len {
            return Ok(None);
        }
        self.spent = true;
        Ok(Some(Frame { kind, octets: &self.partial }))
    }

    /// Looks for a whole message at the front of `input`, and keeps what is there if it is not whole.
    fn next_in_place<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Frame<'i>>, FrameError> {
        let header = self.header(input)?;
        if let Some((kind, len)) = header
            && let Some((octets, rest)) = input.split_at_checked(len)
        {
            *input = rest;
            return Ok(Some(Frame { kind, octets }));
        }
        if let Some((_, len)) = header {
            self.partial.reserve_exact(len);
        }
        self.partial.extend_from_slice(input);
        *input = &[];
        Ok(None)
    }

    /// Moves octets from `input` until `partial` is `len` long or nothing is left.
    fn fill(&mut self, input: &mut &[u8], len: usize) {
        let wanted = len.saturating_sub(self.partial.len()).min(input.len());
        if let Some((taken, rest)) = input.split_at_checked(wanted) {
            self.partial.extend_from_slice(taken);
            *input = rest;
        }
    }

    /// Judges the header at the front of `octets`: type and length, or `None` if it is not whole yet.
    fn header(&self, octets: &[u8]) -> Result<Option<(MessageType, usize)>, FrameError> {
        let mut reader = Reader::new(octets);
        let (Some(marker), Some(length), Some(kind)) = (reader.array::<16>(), reader.u16(), reader.u8())
        else {
            return Ok(None);
        };
        if marker != MARKER {
            return Err(FrameError::Marker);
        }
        let len = usize::from(length);
        if len < HEADER_LEN || len > if self.extended { EXTENDED_LIMIT } else { PLAIN_LIMIT } {
            return Err(FrameError::length(length));
        }
        let kind = MessageType::from_code(kind).ok_or(FrameError::Type(kind))?;
        if !kind.allowed_length(len) {
            return Err(FrameError::length(length));
        }
        Ok(Some((kind, len)))
    }
}

impl MessageType {
    /// Whether a message of this type may be `len` octets long (RFC 4271 §6.1, RFC 8654 §3). A
    /// ROUTE-REFRESH is judged by its content (RFC 7313 §5).
    fn allowed_length(self, len: usize) -> bool {
        match self {
            Self::Open => (29..=PLAIN_LIMIT).contains(&len),
            Self::Update => len >= 23,
            Self::Notification => len >= 21,
            Self::Keepalive => len == HEADER_LEN,
            Self::RouteRefresh => true,
        }
    }
}
