//! The parts of protobuf's encoding that record sets need.

/// Wire types.
pub(super) const VARINT: u32 = 0;
const FIXED64: u32 = 1;
pub(super) const LEN: u32 = 2;
const FIXED32: u32 = 5;

/// Bytes of `value` as a varint.
pub(super) const fn varint_len(value: u64) -> usize {
    // 7 bits a byte; `| 1` because zero takes a byte too.
    (((value | 1).ilog2() / 7) + 1) as usize
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "the low seven bits are what is meant")]
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "below 0x80")]
    out.push(value as u8);
}

/// Field number and wire type in one byte: record sets have no field above 15.
pub(super) const fn tag(field: u8, wire_type: u32) -> u8 {
    #[expect(clippy::cast_possible_truncation, reason = "wire types are below 8")]
    let wire_type = wire_type as u8;
    field << 3 | wire_type
}

/// Reads fields off the front of a slice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

/// What is wrong with the bytes.
pub(super) type Malformed = &'static str;

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) const fn remaining(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, Malformed> {
        if let [byte, rest @ ..] = self.rest
            && *byte < 0x80
        {
            self.rest = rest;
            return Ok(u64::from(*byte));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for (position, byte) in self.rest.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * position);
            if *byte < 0x80 {
                self.rest = &self.rest[position + 1..];
                return Ok(value);
            }
        }
        Err("a number has no end")
    }

    /// A field's number and wire type.
    #[inline]
    pub(super) fn key(&mut self) -> Result<(u32, u32), Malformed> {
        let key = u32::try_from(self.varint()?).map_err(|_| "a field number is too large")?;
        Ok((key >> 3, key & 7))
    }

    #[inline]
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.varint()?).map_err(|_| "a field is longer than its record")?;
        self.take(length)
    }

    #[inline]
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or("a field is longer than its record")?;
        self.rest = rest;
        Ok(taken)
    }

    /// Passes over a field that this client does not know.
    pub(super) fn skip(&mut self, wire_type: u32) -> Result<(), Malformed> {
        match wire_type {
            VARINT => self.varint().map(drop),
            FIXED64 => self.take(8).map(drop),
            LEN => self.bytes().map(drop),
            FIXED32 => self.take(4).map(drop),
            _ => Err("a field has an unknown wire type"),
        }
    }
}
