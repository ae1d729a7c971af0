//! The answers to what needs no backend: identification, flushes that mean nothing, and all that is
//! refused.

use iolite_devices_abi::blk::S_OK;

use super::RequestQueue;
use crate::lines::{Lines, debug_later};
use crate::virtio::blk::completion::Answer;
use crate::virtio::blk::request::Parsed;

impl RequestQueue {
    /// The answer to what needs no backend.
    pub(super) fn answer_now(&self, id: u64, parsed: Parsed, lines: &mut Lines) -> Answer {
        let name = &self.label;
        match parsed {
            Parsed::Flushed { .. } => self.counters.flushes.add(1),
            _ => self.counters.others.add(1),
        }
        match parsed {
            Parsed::Identify { buffers, status } => {
                debug_later!(lines, "{name} #{id} popped: GET_ID");
                let copied = buffers.copy_from(&self.disk.id);
                Answer::new(status, S_OK, copied as u64)
            }
            Parsed::Flushed { status } => {
                debug_later!(lines, "{name} #{id} popped: Flush, which is ignored");
                Answer::new(status, S_OK, 0)
            }
            Parsed::Refused { reason, status } => {
                self.complain(lines, format_args!("#{id} is refused: {reason}"));
                self.counters.errors.add(1);
                Answer::new(status, reason.status(), 0)
            }
            Parsed::NoStatus | Parsed::Transfer(_) => {
                self.complain(lines, format_args!("#{id} has no place for its status"));
                self.counters.errors.add(1);
                Answer::NONE
            }
        }
    }
}
