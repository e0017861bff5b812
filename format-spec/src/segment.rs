//! Commit groups: transactions made durable together.
//!
//! ```text
//! segment = | file header 4096 | group | group | … | zeros | footer when sealed |
//! group   = | GroupHeader 112 | frame | frame | … | zeros to a multiple of 4096 |
//! ```

use crate::checksum::{self, Binding};
use crate::{BLOCK, round_up};

/// First bytes of a group.
pub const MAGIC: [u8; 4] = *b"GRP1";

layout! {
    /// Precedes the frames of a group; starts at a multiple of 4096.
    pub struct GroupHeader[112] {
        /// ASCII `GRP1`.
        magic: [u8; 4],
        /// Bit 0: a group of a run. Else zero.
        flags: u32,
        /// Number of the group in the store, from 1, without gaps. In a run: in the file.
        sequence: u64,
        /// LSN of the group's first frame; the others follow without gaps. In a run they follow in the order of the keys.
        first_lsn: u64,
        /// The log was durable up to and including this LSN when the group was written. In a run: its last LSN.
        durable_lsn: u64,
        /// Frames in the group.
        frame_count: u32,
        /// Of the group with header and padding, a multiple of 4096, in bytes.
        length: u32,
        /// Of header and frames, without the padding, in bytes.
        used: u32,
        /// Zero.
        reserved: u32,
        /// Check of the group before; the first group of a segment: as its file header says, of a run: zero.
        previous: [u8; 16],
        /// Number of the pack that was being written (0: none),
        pack: u64,
        /// which was durable up to here before this group was written (W1).
        pack_end: u64,
        /// Zero.
        reserved2: [u8; 12],
        /// Check of header bytes 0–91 and everything behind the header, padding included, bound to the header's place.
        check: [u8; 16],
        /// CRC-32 of binding and header bytes 0–107.
        crc: u32,
    }
}

/// [`GroupHeader::flags`]: a group of a run.
pub const FLAG_RUN: u32 = 1;

const HEADER_CHECKED: usize = 92;
const HEADER_CRC: usize = 108;

/// Longest group, in bytes: one frame of the largest size fits.
pub const GROUP_LEN_MAX: usize = 32 << 20;

/// Completes a group in place. `group` starts with 112 bytes for the header, is padded with zeros to its length, and
/// `used` says where its frames end. Returns the group's check, which the next group names.
pub fn seal(group: &mut [u8], mut header: GroupHeader, place: &Binding) -> [u8; 16] {
    let Some((head, body)) = group.split_at_mut_checked(GroupHeader::SIZE) else { return [0; 16] };
    let plain = header.encode();
    header.check = checksum::check(place, &plain[..HEADER_CHECKED], checksum::body_hash(body));
    let checked = header.encode();
    header.crc = checksum::header_crc(place, &checked[..HEADER_CRC]);
    head.copy_from_slice(&header.encode());
    header.check
}

/// The group header at the start of `bytes`, when its CRC verifies at `place` and its lengths are possible.
#[must_use]
pub fn header_at(bytes: &[u8], place: &Binding) -> Option<GroupHeader> {
    let head = bytes.get(..GroupHeader::SIZE)?;
    if !head.starts_with(&MAGIC) {
        return None;
    }
    let h = GroupHeader::decode(head)?;
    if checksum::header_crc(place, head.get(..HEADER_CRC)?) != h.crc {
        return None;
    }
    let used = u64::from(h.used);
    let possible = h.length as usize <= GROUP_LEN_MAX
        && h.used as usize >= GroupHeader::SIZE
        && round_up(used, BLOCK as u64) == Some(u64::from(h.length));
    possible.then_some(h)
}

/// Whether a whole group (header to padding) has the check its header names.
#[must_use]
pub fn is_sound(header: &GroupHeader, group: &[u8], place: &Binding) -> bool {
    let Some((head, body)) = group.split_at_checked(GroupHeader::SIZE) else { return false };
    group.len() == header.length as usize
        && head
            .get(..HEADER_CHECKED)
            .is_some_and(|h| checksum::check(place, h, checksum::body_hash(body)) == header.check)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileKind, FileName, StoreId};

    #[test]
    fn every_flipped_bit_of_a_group_is_found_padding_too() {
        let place = Binding::new(StoreId([1; 16]), FileName::new(FileKind::Segment, 1), 4096);
        let mut group = vec![0u8; BLOCK];
        group[112..120].copy_from_slice(b"contents");
        let header = GroupHeader {
            magic: MAGIC,
            flags: 0,
            sequence: 1,
            first_lsn: 1,
            durable_lsn: 0,
            frame_count: 1,
            length: 4096,
            used: 120,
            reserved: 0,
            previous: [0; 16],
            pack: 0,
            pack_end: 0,
            reserved2: [0; 12],
            check: [0; 16],
            crc: 0,
        };
        seal(&mut group, header, &place);
        let sound = |g: &[u8], p: &Binding| header_at(g, p).is_some_and(|h| is_sound(&h, g, p));
        assert!(sound(&group, &place));
        assert!(!sound(&group, &place.at(8192)));
        for bit in 0..group.len() * 8 {
            group[bit / 8] ^= 1 << (bit % 8);
            assert!(!sound(&group, &place), "bit {bit}");
            group[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
