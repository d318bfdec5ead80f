//! ROUTE-REFRESH (RFC 2918), with the demarcation of RFC 7313.

use super::capability::AfiSafi;
use super::error::FrameError;
use super::framer::Frame;
use super::reader::Reader;

/// What a ROUTE-REFRESH message says about its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshKind {
    /// Tell me all your routes again.
    Request,
    /// What follows is all of my routes again (RFC 7313).
    Begin,
    /// That was all of my routes (RFC 7313).
    End,
    /// A subtype that must be ignored.
    Unknown(u8),
}

impl RefreshKind {
    const fn from_octet(octet: u8) -> Self {
        match octet {
            0 => Self::Request,
            1 => Self::Begin,
            2 => Self::End,
            other => Self::Unknown(other),
        }
    }

    const fn octet(self) -> u8 {
        match self {
            Self::Request => 0,
            Self::Begin => 1,
            Self::End => 2,
            Self::Unknown(other) => other,
        }
    }
}

/// A ROUTE-REFRESH message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    /// The family, which may be one that was never negotiated: such a message is to be ignored.
    pub family: AfiSafi,
    /// What is asked or said.
    pub kind: RefreshKind,
}

impl RouteRefresh {
    pub(super) fn decode(frame: Frame<'_>) -> Result<Self, FrameError> {
        let mut reader = Reader::new(frame.body());
        let (Some(afi), Some(subtype)) = (reader.u16(), reader.u8()) else {
            return Err(FrameError::length(frame.length()));
        };
        let kind = RefreshKind::from_octet(subtype);
        match (kind, reader.u8(), reader.is_empty()) {
            (_, Some(safi), true) | (RefreshKind::Unknown(_), Some(safi), false) => {
                Ok(Self { family: AfiSafi { afi, safi }, kind })
            }
            (RefreshKind::Begin | RefreshKind::End, ..) => {
                Err(FrameError::RouteRefresh(frame.octets().into()))
            }
            _ => Err(FrameError::length(frame.length())),
        }
    }

    pub(super) fn encode(&self, buf: &mut Vec<u8>) {
        buf.extend_from_slice(&self.family.afi.to_be_bytes());
        buf.push(self.kind.octet());
        buf.push(self.family.safi);
    }
}
