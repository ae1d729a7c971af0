//! SHA-256 (FIPS 180-4): blocks by the processor's SHA instructions where it has them, else in
//! portable code.

use crate::report::Hex;
use crate::sha_instructions;
use core::fmt;
use sha2::digest::generic_array::GenericArray;

const BLOCK_BYTES: usize = 64;
/// The length in bits ends the last block.
const LENGTH_BYTES: usize = 8;
/// Section 5.3.3.
const INITIAL: [u32; 8] = [
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
];

type Block = [u8; BLOCK_BYTES];

/// A SHA-256 being computed.
pub struct Sha256 {
    state: [u32; 8],
    /// The bytes after the last whole block; `length % BLOCK_BYTES` of them.
    rest: Block,
    /// Bytes so far.
    length: u64,
    by_instructions: bool,
}

impl Sha256 {
    /// Of nothing yet.
    pub fn new() -> Sha256 {
        Sha256::computed(sha_instructions::available())
    }

    fn computed(by_instructions: bool) -> Sha256 {
        Sha256 {
            state: INITIAL,
            rest: [0; BLOCK_BYTES],
            length: 0,
            by_instructions,
        }
    }

    /// Adds bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        let kept = self.kept();
        self.length += bytes.len() as u64;
        if kept > 0 {
            let (fits, later) = bytes.split_at(bytes.len().min(BLOCK_BYTES - kept));
            self.rest[kept..kept + fits.len()].copy_from_slice(fits);
            if kept + fits.len() < BLOCK_BYTES {
                return;
            }
            let full = self.rest;
            self.compress(&[full]);
            bytes = later;
        }
        let (blocks, rest) = bytes.as_chunks();
        self.compress(blocks);
        self.rest[..rest.len()].copy_from_slice(rest);
    }

    /// The digest of all of them.
    pub fn finish(mut self) -> Digest {
        let bits = (self.length * 8).to_be_bytes();
        let kept = self.kept();
        // A one bit, zeroes, and the length (section 5.1.1).
        let mut last = [[0; BLOCK_BYTES]; 2];
        last[0][..kept].copy_from_slice(&self.rest[..kept]);
        last[0][kept] = 0x80;
        let blocks = if kept + 1 + LENGTH_BYTES <= BLOCK_BYTES {
            1
        } else {
            2
        };
        last[blocks - 1][BLOCK_BYTES - LENGTH_BYTES..].copy_from_slice(&bits);
        self.compress(&last[..blocks]);

        let mut digest = [0; 32];
        for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(self.state) {
            *bytes = word.to_be_bytes();
        }
        Digest(digest)
    }

    fn kept(&self) -> usize {
        (self.length % BLOCK_BYTES as u64) as usize
    }

    fn compress(&mut self, blocks: &[Block]) {
        if self.by_instructions {
            sha_instructions::compress(&mut self.state, blocks);
        } else {
            for block in blocks {
                sha2::compress256(&mut self.state, &[GenericArray::from(*block)]);
            }
        }
    }
}

impl Default for Sha256 {
    fn default() -> Sha256 {
        Sha256::new()
    }
}

/// A SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::pattern;
    use std::vec;

    fn digest(mut hash: Sha256, bytes: &[u8], steps: &[usize]) -> Digest {
        let mut rest = bytes;
        let mut steps = steps.iter().cycle();
        while let (false, Some(&step)) = (rest.is_empty(), steps.next()) {
            let (part, later) = rest.split_at(step.min(rest.len()));
            hash.update(part);
            rest = later;
        }
        hash.finish()
    }

    #[test]
    fn the_examples_of_the_standard() {
        let of = |text: &str| {
            let mut hash = Sha256::new();
            hash.update(text.as_bytes());
            std::format!("{}", hash.finish())
        };
        assert_eq!(
            of(""),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(
            of("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn both_ways_agree_with_another_implementation_for_every_length_and_split() {
        use sha2::Digest as _;
        let mut bytes = vec![0; 700];
        pattern::fill(&mut bytes, 1, 0);
        for len in 0..bytes.len() {
            let bytes = &bytes[..len];
            let expected = Digest(sha2::Sha256::digest(bytes).into());
            for by_instructions in [false, sha_instructions::available()] {
                for steps in [&[700][..], &[1], &[63, 2], &[64], &[65, 128, 7]] {
                    let hash = Sha256::computed(by_instructions);
                    assert_eq!(digest(hash, bytes, steps), expected, "{len} {steps:?}");
                }
            }
        }
    }
}
