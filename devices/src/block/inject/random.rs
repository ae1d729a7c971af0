//! Numbers that look random and are a function of where they are used.

/// The `n`th number of stream `stream` of `seed`.
pub(super) fn draw(seed: u64, stream: u64, n: u64) -> u64 {
    mix(mix(mix(seed) ^ stream) ^ n)
}

/// One step of splitmix64 (Steele, Lea, Flood 2014).
fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_and_streams_are_independent() {
        let run = |seed, stream| -> Vec<u64> { (0..100).map(|n| draw(seed, stream, n)).collect() };
        assert_eq!(run(1, 0), run(1, 0));
        assert_ne!(run(1, 0), run(2, 0));
        assert_ne!(run(1, 0), run(1, 1));
        assert_ne!(run(1, 2), run(2, 1));
    }
}
