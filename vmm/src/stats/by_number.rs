//! Things that have small numbers: a map that costs nothing to look into.

/// At most one `T` for each number.
#[derive(Clone, Debug)]
pub struct ByNumber<T>(Vec<Option<T>>);

impl<T> ByNumber<T> {
    /// The one with this number.
    #[inline]
    pub fn get(&self, number: usize) -> Option<&T> {
        self.0.get(number)?.as_ref()
    }

    /// The one with this number.
    #[inline]
    pub fn get_mut(&mut self, number: usize) -> Option<&mut T> {
        self.0.get_mut(number)?.as_mut()
    }

    /// Puts one in the place of whatever had this number.
    #[inline]
    pub fn insert(&mut self, number: usize, thing: T) {
        *self.place(number) = Some(thing);
    }

    /// Takes the one with this number.
    #[inline]
    pub fn remove(&mut self, number: usize) -> Option<T> {
        self.0.get_mut(number)?.take()
    }

    /// The one with this number; a new one if there is none.
    #[inline]
    pub fn get_or_default(&mut self, number: usize) -> &mut T
    where
        T: Default,
    {
        self.place(number).get_or_insert_default()
    }

    /// All of them with their numbers, in order.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let numbered = self.0.iter().enumerate();
        numbered.filter_map(|(number, thing)| Some((number, thing.as_ref()?)))
    }

    fn place(&mut self, number: usize) -> &mut Option<T> {
        if number >= self.0.len() {
            self.0.resize_with(number + 1, || None);
        }
        &mut self.0[number]
    }
}

impl<T> Default for ByNumber<T> {
    fn default() -> Self {
        ByNumber(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_is_found_until_it_is_taken() {
        let mut things = ByNumber::default();
        things.insert(7, 'a');
        things.insert(2, 'b');
        *things.get_or_default(3) = 'c';
        *things.get_or_default(3) = 'd';
        assert!(things.iter().eq([(2, &'b'), (3, &'d'), (7, &'a')]));
        assert_eq!(things.remove(3), Some('d'));
        assert_eq!((things.remove(3), things.remove(99)), (None, None));
        assert_eq!((things.get(7), things.get(8)), (Some(&'a'), None));
        assert_eq!(things.get_mut(0), None);
        assert_eq!(things.get_mut(99), None);
    }
}
