//! Checksums made right again, so that what an input has changed is not refused before it is looked at.

use super::originals::ID;

const CRC_LEN: usize = 4;

/// A structure that begins with a magic: how long it is, where its checksum lies, and what the checksum covers besides.
struct Kind {
    magic: &'static [u8; 4],
    crc_at: usize,
    /// What the checksum is taken over first.
    bound_to: &'static [u8],
    /// Bytes of the structure, which begins where the slice does.
    length: fn(&[u8]) -> Option<usize>,
}

const KINDS: [Kind; 5] = [
    Kind { magic: b"AQSG", crc_at: 8, bound_to: &ID.0, length: |_| Some(64) },
    Kind { magic: b"AQTR", crc_at: 8, bound_to: &ID.0, length: |_| Some(64) },
    Kind { magic: b"AQBT", crc_at: 12, bound_to: &ID.0, length: |bytes| number(bytes, 8) },
    Kind { magic: b"AQPS", crc_at: 8, bound_to: &[], length: |_| Some(192) },
    Kind { magic: b"AQIX", crc_at: 8, bound_to: &ID.0, length: |bytes| Some(bytes.len()) },
];

/// Where the structures of a file begin.
pub(crate) fn structures(file: &[u8]) -> Vec<usize> {
    (0..file.len()).filter(|at| KINDS.iter().any(|kind| file[*at..].starts_with(kind.magic))).collect()
}

/// Makes every checksum of every structure in `file` right.
pub(crate) fn checksums(file: &mut [u8]) {
    for at in structures(file) {
        let bytes = &mut file[at..];
        let Some(kind) = KINDS.iter().find(|kind| bytes.starts_with(kind.magic)) else { continue };
        let Some(length) = (kind.length)(bytes) else { continue };
        if kind.magic == b"AQBT" {
            payload_checksum(bytes, length);
        }
        let Some(structure) = bytes.get_mut(..length).filter(|bytes| bytes.len() >= kind.crc_at + CRC_LEN) else {
            continue;
        };
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(kind.bound_to);
        hasher.update(&structure[..kind.crc_at]);
        hasher.update(&structure[kind.crc_at + CRC_LEN..]);
        structure[kind.crc_at..kind.crc_at + CRC_LEN].copy_from_slice(&hasher.finalize().to_le_bytes());
    }
}

fn payload_checksum(batch: &mut [u8], header_bytes: usize) {
    let Some(payload_bytes) = number(batch, 16) else { return };
    let Some(payload) = batch.get(header_bytes..).and_then(|rest| rest.get(..payload_bytes)) else { return };
    let crc = crc32fast::hash(payload);
    if let Some(field) = batch.get_mut(20..20 + CRC_LEN) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..)?.first_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*field)).ok()
}
