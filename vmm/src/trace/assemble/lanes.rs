//! The lanes and their slices while they are being made.

use super::bounds::{MOST_SLICES, MOST_THREADS};
use crate::trace::model::{Category, Group, Lane, Name, PROCESSOR, Slice};

#[derive(Default)]
pub struct Lanes {
    pub lanes: Vec<Lane>,
    pub slices: Vec<Slice>,
    processor: Option<u16>,
    /// How many lanes there are for threads of the guest, and slices of the guest.
    threads: usize,
    guest_slices: usize,
    /// How often there was no room.
    pub refused: u64,
}

impl Lanes {
    /// A new lane for a thread of the guest, as long as there is room.
    pub fn thread(&mut self, tid: u32, name: &str) -> Option<u16> {
        if self.threads == MOST_THREADS {
            self.refused += 1;
            return None;
        }
        self.threads += 1;
        Some(self.add(Group::Guest, tid, name))
    }

    /// The lane of the guest's processor.
    pub fn processor(&mut self) -> u16 {
        if let Some(lane) = self.processor {
            return lane;
        }
        let lane = self.add(Group::Guest, PROCESSOR, "processor");
        self.processor = Some(lane);
        lane
    }

    /// A new lane for a thread of the host.
    pub fn host(&mut self, tid: u32, name: &str) -> u16 {
        self.add(Group::Host, tid, name)
    }

    fn add(&mut self, group: Group, tid: u32, name: &str) -> u16 {
        let index = self.lanes.len();
        let name = name.to_owned();
        self.lanes.push(Lane { group, tid, name });
        // The host has far fewer threads than would be too many.
        u16::try_from(index).unwrap_or(u16::MAX)
    }

    pub fn rename(&mut self, lane: Option<u16>, name: &str) {
        let lane = lane.and_then(|lane| self.lanes.get_mut(usize::from(lane)));
        if let Some(lane) = lane {
            name.clone_into(&mut lane.name);
        }
    }

    pub fn name(&self, lane: Option<u16>) -> &str {
        let lane = lane.and_then(|lane| self.lanes.get(usize::from(lane)));
        lane.map_or("one of too many threads", |lane| lane.name.as_str())
    }

    /// Something was done from `start` to `end`, by somebody who may have no lane.
    pub fn slice(
        &mut self,
        lane: Option<u16>,
        category: Category,
        name: Name,
        start: u64,
        end: u64,
    ) {
        self.slice_at(None, lane, category, name, (start, end));
    }

    /// The same, and where.
    pub fn slice_at(
        &mut self,
        place: Option<u64>,
        lane: Option<u16>,
        category: Category,
        name: Name,
        (start, end): (u64, u64),
    ) {
        if end <= start {
            return;
        }
        let group = lane.and_then(|lane| Some(self.lanes.get(usize::from(lane))?.group));
        let room = match group {
            None => false,
            Some(Group::Host) => true,
            Some(Group::Guest) => self.guest_slices < MOST_SLICES,
        };
        let (Some(lane), true) = (lane, room) else {
            self.refused += 1;
            return;
        };
        self.guest_slices += usize::from(group == Some(Group::Guest));
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
