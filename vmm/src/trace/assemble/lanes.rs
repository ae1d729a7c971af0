//! The lanes and their slices while they are being made.

use crate::trace::model::{Category, Group, Lane, Name, Slice};

#[derive(Default)]
pub struct Lanes {
    pub lanes: Vec<Lane>,
    pub slices: Vec<Slice>,
}

impl Lanes {
    pub fn lane(&mut self, group: Group, tid: u32, name: &str) -> u16 {
        Lane::index(&mut self.lanes, group, tid, name)
    }

    pub fn rename(&mut self, lane: u16, name: &str) {
        if let Some(lane) = self.lanes.get_mut(usize::from(lane)) {
            name.clone_into(&mut lane.name);
        }
    }

    pub fn name(&self, lane: u16) -> &str {
        self.lanes
            .get(usize::from(lane))
            .map_or("", |lane| lane.name.as_str())
    }

    /// Something was done from `start` to `end`.
    pub fn slice(&mut self, lane: u16, category: Category, name: Name, start: u64, end: u64) {
        self.slice_at(None, lane, category, name, (start, end));
    }

    /// The same, and where.
    pub fn slice_at(
        &mut self,
        place: Option<u64>,
        lane: u16,
        category: Category,
        name: Name,
        (start, end): (u64, u64),
    ) {
        if end > start {
            self.slices.push(Slice {
                lane,
                category,
                name,
                start,
                end,
                place,
            });
        }
    }
}
