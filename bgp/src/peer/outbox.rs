//! Octets on their way to one connection.

/// Room that an empty outbox keeps.
const KEPT: usize = 1 << 12;

/// Whole messages, of which the first may be half sent.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    octets: Vec<u8>,
    sent: usize,
    /// Something was taken since this was last asked.
    progress: bool,
}

impl Outbox {
    /// Where messages are appended.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        if self.sent > 0 {
            self.octets.drain(..self.sent);
            self.sent = 0;
        }
        &mut self.octets
    }

    pub(crate) fn len(&self) -> usize {
        self.octets.len() - self.sent
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Moves at most `budget` octets to `buf`; a buffer without any room gets ours, so that nothing is copied.
    pub(crate) fn take(&mut self, buf: &mut Vec<u8>, budget: usize) {
        if buf.capacity() == 0 && self.sent == 0 && self.octets.len() <= budget {
            self.progress |= !self.octets.is_empty();
            return std::mem::swap(buf, &mut self.octets);
        }
        let end = self.octets.len().min(self.sent.saturating_add(budget));
        let taken = self.octets.get(self.sent..end).unwrap_or_default();
        self.progress |= !taken.is_empty();
        buf.extend_from_slice(taken);
        self.sent = end;
        if self.sent == self.octets.len() {
            self.octets.clear();
            self.sent = 0;
            self.octets.shrink_to(KEPT);
        }
    }

    /// Whether something was taken since the last call.
    pub(crate) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_leave_in_order_and_never_more_than_asked_for() {
        let mut outbox = Outbox::default();
        outbox.buffer().extend_from_slice(&[1, 2, 3]);
        let mut sent = Vec::new();
        outbox.take(&mut sent, 2);
        outbox.buffer().push(4);
        assert_eq!((sent.as_slice(), outbox.len()), ([1, 2].as_slice(), 2));
        assert!(outbox.take_progress() && !outbox.take_progress());
        outbox.take(&mut sent, 10);
        assert_eq!(sent, [1, 2, 3, 4]);
        outbox.buffer().extend_from_slice(&[5, 6]);
        let mut whole = Vec::new();
        outbox.take(&mut whole, 10);
        assert_eq!((whole.as_slice(), outbox.take_progress()), ([5, 6].as_slice(), true));
        assert!(outbox.is_empty());
    }
}
