//! Who wants to be woken when: a binary heap, in which everyone has one place at most and can be
//! taken out from anywhere. Nothing is allocated, and all zeroes is an empty one.

/// The times of up to `N` numbers below `N`.
pub struct Timers<const N: usize> {
    /// Each is not before its parent: that of place `i` is `(i - 1) / 2`.
    heap: [(u64, u16); N],
    /// Where in the heap each number is, counted from 1; 0 for one that is not there.
    places: [u16; N],
    count: usize,
}

impl<const N: usize> Default for Timers<N> {
    fn default() -> Self {
        Timers::new()
    }
}

impl<const N: usize> Timers<N> {
    /// Nobody.
    pub const fn new() -> Self {
        const { assert!(N < u16::MAX as usize) };
        Timers {
            heap: [(0, 0); N],
            places: [0; N],
            count: 0,
        }
    }

    /// Is nobody there?
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// When the first one wants to be woken.
    #[inline(always)]
    pub fn first(&self) -> Option<u64> {
        (self.count > 0).then(|| self.heap[0].0)
    }

    /// Has `number` woken at `time`, whatever was set before.
    ///
    /// # Panics
    /// If the number is not below `N`.
    pub fn set(&mut self, number: u16, time: u64) {
        self.remove(number);
        let place = self.count;
        self.count += 1;
        self.rise(place, (time, number));
    }

    /// Takes `number` out, if it is there.
    ///
    /// # Panics
    /// If the number is not below `N`.
    pub fn remove(&mut self, number: u16) {
        let Some(place) = usize::from(self.places[usize::from(number)]).checked_sub(1) else {
            return;
        };
        self.places[usize::from(number)] = 0;
        self.count -= 1;
        if place < self.count {
            let last = self.heap[self.count];
            self.sink(place, last);
        }
    }

    /// Takes out the first one whose time has come by `now`.
    pub fn take_due(&mut self, now: u64) -> Option<u16> {
        let (time, number) = self.heap[0];
        if self.count == 0 || time > now {
            return None;
        }
        self.remove(number);
        Some(number)
    }

    fn put(&mut self, place: usize, entry: (u64, u16)) {
        self.heap[place] = entry;
        self.places[usize::from(entry.1)] = place as u16 + 1;
    }

    /// Puts an entry at `place`, which is empty, or above it.
    fn rise(&mut self, mut place: usize, entry: (u64, u16)) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.heap[parent] <= entry {
                break;
            }
            self.put(place, self.heap[parent]);
            place = parent;
        }
        self.put(place, entry);
    }

    /// Puts an entry at `place`, which is empty, or below it, or above it.
    fn sink(&mut self, mut place: usize, entry: (u64, u16)) {
        loop {
            let left = 2 * place + 1;
            let right = left + 1;
            let child = match right < self.count && self.heap[right] < self.heap[left] {
                true => right,
                false => left,
            };
            if child >= self.count || entry <= self.heap[child] {
                return self.rise(place, entry);
            }
            self.put(place, self.heap[child]);
            place = child;
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::Timers;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    #[test]
    fn the_earliest_comes_first() {
        let mut timers = Timers::<8>::new();
        for (number, time) in [(3, 30), (1, 10), (4, 40), (2, 20)] {
            timers.set(number, time);
        }
        assert_eq!(timers.first(), Some(10));
        timers.remove(2);
        timers.remove(2);
        timers.set(1, 35);
        let order: Vec<_> = std::iter::from_fn(|| timers.take_due(36)).collect();
        assert_eq!(order, [3, 1]);
        assert_eq!(timers.first(), Some(40));
    }

    proptest! {
        /// As a sorted map would do it.
        #[test]
        fn a_heap_is_a_sorted_map(steps in prop::collection::vec((0..3, 0u16..16, 0u64..20), 0..200)) {
            let mut timers = Timers::<16>::new();
            let mut model = BTreeMap::new();
            for (step, number, time) in steps {
                match step {
                    0 => {
                        timers.set(number, time);
                        model.insert(number, time);
                    }
                    1 => {
                        timers.remove(number);
                        model.remove(&number);
                    }
                    _ => {
                        let first = model.iter().map(|(number, time)| (*time, *number)).min();
                        let due = first.filter(|(at, _)| *at <= time).map(|(_, number)| number);
                        prop_assert_eq!(timers.take_due(time), due);
                        due.map(|number| model.remove(&number));
                    }
                }
                prop_assert_eq!(timers.first(), model.values().min().copied());
                prop_assert_eq!(timers.is_empty(), model.is_empty());
            }
        }
    }
}
