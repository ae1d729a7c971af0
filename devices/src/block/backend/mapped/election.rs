//! Which window is mapped in a slot, where there are several for it.
//!
//! Each read that a mapping would have served is a vote for its window. Votes for others cancel it (this
//! is Boyer and Moore's majority vote), and so do reads that the window which has the slot serves: only
//! what is asked for more often than all others together gets anywhere. The first election takes few votes; later ones take many, for each means either that a
//! mapping is thrown away, or that the winner was looked at in vain, since parts of it were not in the
//! page cache.

use std::sync::atomic::{AtomicU64, Ordering};

/// Votes that win the first election.
const FEW: u64 = 16;
/// Votes that win a later one.
const MANY: u64 = 1024;

const VOTE_BITS: u32 = 16;
const VOTES: u64 = (1 << VOTE_BITS) - 1;
/// There was an election.
const LATER: u64 = 1 << 63;

/// The candidate and its votes. Any thread may vote. A vote of two at the same moment may be lost.
#[derive(Default)]
pub(super) struct Election(AtomicU64);

impl Election {
    /// A vote against whoever is the candidate.
    #[inline]
    pub(super) fn oppose(&self) {
        let state = self.0.load(Ordering::Relaxed);
        if state & VOTES != 0 {
            self.0.store(state - 1, Ordering::Relaxed);
        }
    }

    /// A vote for `window`, which is less than 2^47. True if it has won; the next vote begins another
    /// election.
    pub(super) fn vote(&self, window: u64) -> bool {
        let state = self.0.load(Ordering::Relaxed);
        let (candidate, votes) = ((state & !LATER) >> VOTE_BITS, state & VOTES);
        let (candidate, votes) = match votes {
            0 => (window, 1),
            votes if candidate == window => (window, votes + 1),
            votes => (candidate, votes - 1),
        };
        let later = state & LATER;
        let won = votes >= if later == 0 { FEW } else { MANY };
        let state = match won {
            true => LATER,
            false => later | candidate << VOTE_BITS | votes,
        };
        self.0.store(state, Ordering::Relaxed);
        won
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_the_slot_keeps_it_while_it_serves_more() {
        let election = Election::default();
        for vote in 0..100_000u64 {
            election.oppose();
            assert!(vote % 3 == 0 || !election.vote(7));
            election.oppose();
        }
        let without = (0..).find(|_| election.vote(7));
        assert!(without.is_some_and(|votes| votes < FEW));
    }

    /// The winner, and after how many votes, if there is one among them.
    fn winner(election: &Election, votes: impl IntoIterator<Item = u64>) -> Option<(u64, u64)> {
        (1..)
            .zip(votes)
            .find_map(|(count, window)| election.vote(window).then_some((window, count)))
    }

    #[test]
    fn the_first_election_takes_few_votes_and_others_many() {
        let election = Election::default();
        let seven = || std::iter::repeat_n(7, 2000);
        assert_eq!(winner(&election, seven()), Some((7, FEW)));
        assert_eq!(winner(&election, seven()), Some((7, MANY)));
        assert_eq!(winner(&election, seven()), Some((7, MANY)));
    }

    #[test]
    fn windows_that_are_asked_for_in_turn_win_nothing() {
        let election = Election::default();
        let turns = |count| (0..100_000u64).map(move |vote| vote % count);
        assert_eq!(winner(&election, turns(2)), None);
        assert_eq!(winner(&election, turns(10)), None);
    }

    #[test]
    fn a_majority_wins() {
        let election = Election::default();
        let largest = (1 << 47) - 1;
        let votes = (0..).map(|vote| if vote % 3 == 0 { vote } else { largest });
        assert_eq!(winner(&election, votes.take(1000)), Some((largest, 48)));
    }
}
