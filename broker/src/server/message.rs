//! Where messages begin and end in the bytes of a gRPC stream.

/// A flag and a length of four bytes.
const HEADER_BYTES: usize = 5;

/// Follows a stream from message to message.
#[derive(Debug, Default)]
pub(super) struct Messages {
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    /// Of the message whose header is complete.
    length: usize,
    missing: usize,
}

impl Messages {
    /// Follows `data`; returns how many messages it has completed.
    pub(super) fn advance(&mut self, mut data: &[u8]) -> usize {
        let mut completed = 0;
        while !data.is_empty() {
            if self.header_bytes < HEADER_BYTES {
                let taken = data.len().min(HEADER_BYTES - self.header_bytes);
                let (now, later) = data.split_at(taken);
                self.header[self.header_bytes..][..taken].copy_from_slice(now);
                self.header_bytes += taken;
                data = later;
                if self.header_bytes < HEADER_BYTES {
                    break;
                }
                let [_, a, b, c, d] = self.header;
                self.length = u32::from_be_bytes([a, b, c, d]) as usize;
                self.missing = self.length;
            }
            let taken = data.len().min(self.missing);
            data = &data[taken..];
            self.missing -= taken;
            if self.missing == 0 {
                self.header_bytes = 0;
                completed += 1;
            }
        }
        completed
    }

    /// Whether a message has begun and not ended.
    pub(super) fn is_inside(&self) -> bool {
        self.header_bytes > 0
    }

    /// The length of the message that has begun, once it is known.
    pub(super) fn bytes(&self) -> Option<usize> {
        (self.header_bytes == HEADER_BYTES).then_some(self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_followed_however_they_are_cut() {
        let message = |length: u16| [&[0, 0, 0][..], &length.to_be_bytes(), &vec![9; length.into()]].concat();
        let stream: Vec<u8> = [0, 3, 300, 1].into_iter().flat_map(message).collect();
        for piece in [1, 2, 4, 5, 6, 7, 100, stream.len()] {
            let mut messages = Messages::default();
            let completed: usize = stream.chunks(piece).map(|data| messages.advance(data)).sum();
            assert_eq!((completed, messages.is_inside()), (4, false), "in pieces of {piece}");
        }
    }

    #[test]
    fn the_length_is_known_with_the_header() {
        let mut messages = Messages::default();
        assert_eq!(messages.advance(&[0, 0, 1, 0]), 0);
        assert_eq!((messages.is_inside(), messages.bytes()), (true, None));
        assert_eq!(messages.advance(&[0]), 0);
        assert_eq!((messages.is_inside(), messages.bytes()), (true, Some(1 << 16)));
        assert_eq!(messages.advance(&vec![0; 1 << 16]), 1);
        assert_eq!((messages.is_inside(), messages.bytes()), (false, None));
    }
}
