//! The byte pattern of the programs `fill` and `verify`, which the host can compute too.
//!
//! A disk filled with seed `S` holds, at each byte offset `8 * i`, the 64-bit little-endian word
//! `splitmix64(S + i)` (the sum wraps). The byte at any offset depends on the seed and the offset
//! alone, so any part can be written or checked on its own.

/// The output function of the splitmix64 generator for state `x`.
pub const fn splitmix64(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Fills `buffer` with what lies `offset` bytes into the pattern of `seed`.
pub fn fill(buffer: &mut [u8], seed: u64, offset: u64) {
    let mut at = offset;
    let mut rest = buffer;
    while !rest.is_empty() {
        let skip = (at % 8) as usize;
        let word = splitmix64(seed.wrapping_add(at / 8)).to_le_bytes();
        let len = rest.len().min(8 - skip);
        let (part, later) = rest.split_at_mut(len);
        part.copy_from_slice(&word[skip..skip + len]);
        at += len as u64;
        rest = later;
    }
}

/// Where `found`, read `offset` bytes into a disk, first differs from the pattern of `seed`: the
/// index into `found`, and the byte that belongs there.
pub fn first_difference(found: &[u8], seed: u64, offset: u64) -> Option<(usize, u8)> {
    let mut expected = [0; 512];
    for (chunk_index, chunk) in found.chunks(expected.len()).enumerate() {
        let start = chunk_index * expected.len();
        let expected = &mut expected[..chunk.len()];
        fill(expected, seed, offset + start as u64);
        if chunk != expected
            && let Some(at) = (0..chunk.len()).find(|&at| chunk[at] != expected[at])
        {
            return Some((start + at, expected[at]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix64_gives_the_published_sequence() {
        // The generator seeded with 0 advances its state by 0x9e37_79b9_7f4a_7c15 for each output.
        assert_eq!(splitmix64(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(splitmix64(0x9e37_79b9_7f4a_7c15), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn every_part_equals_that_part_of_the_whole() {
        let mut whole = [0; 200];
        fill(&mut whole, 42, 0);
        assert_eq!(whole[8..16], splitmix64(43).to_le_bytes());
        for offset in 0..24 {
            for len in 0..40 {
                let mut part = [0; 40];
                fill(&mut part[..len], 42, offset);
                assert_eq!(part[..len], whole[offset as usize..offset as usize + len]);
            }
        }
    }

    #[test]
    fn the_first_wrong_byte_is_found() {
        let mut bytes = [0; 1500];
        fill(&mut bytes, u64::MAX, 4096);
        assert_eq!(first_difference(&bytes, u64::MAX, 4096), None);
        for at in [0, 511, 512, 1499] {
            let mut bytes = bytes;
            let right = bytes[at];
            bytes[at] ^= 1;
            assert_eq!(first_difference(&bytes, u64::MAX, 4096), Some((at, right)));
        }
        assert_eq!(first_difference(&bytes, 0, 4096).map(|(at, _)| at), Some(0));
    }
}
