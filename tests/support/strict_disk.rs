//! A virtio-blk device that takes a driver at its word, written against the specification and not
//! against our driver: another device than ours. A [`Model`] says what it offers and how it behaves.
//!
//! Whatever a driver does that the specification (virtio 1.2) does not allow is ignored where a
//! strict device ignores it, and kept as a complaint: [`StrictDisk::complaints`].
//!
//! Requests are carried out when the queue is notified, on the vCPU's thread.

// Each test uses its part of this.
#![allow(dead_code)]

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iolite_devices::bus::BusDevice;
use iolite_devices::interrupt::Interrupt;
use iolite_devices_abi::ring::{
    AVAIL_F_NO_INTERRUPT, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor, UsedElem,
    avail_ring_bytes, need_event, used_ring_bytes,
};
use iolite_devices_abi::status::{
    ACKNOWLEDGE, DRIVER, DRIVER_OK, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, FAILED, FEATURES_OK,
};
use iolite_devices_abi::{blk, mmio};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

/// What a device offers, and how it behaves.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its identification.
    pub id: &'static str,
    /// Offered beside VIRTIO_F_VERSION_1.
    pub features: u64,
    /// QueueNumMax.
    pub queue_max: u32,
    /// `seg_max` and `size_max`, if their features are offered.
    pub seg_max: u32,
    pub size_max: u32,
    /// Legal, and hard on a driver: it uses what was made available last first, says nothing in
    /// the length of a used entry, takes a while to reset, and its configuration changes while
    /// it is read.
    pub nasty: bool,
}

impl Model {
    /// What Firecracker is by default: no more than VIRTIO_F_EVENT_IDX, and one data segment.
    pub fn plain(id: &'static str) -> Model {
        Model {
            id,
            features: F_EVENT_IDX,
            queue_max: 256,
            seg_max: 0,
            size_max: 0,
            nasty: false,
        }
    }
}

/// The steps of a driver, and no other (section 3.1.1).
const STEPS: [u32; 5] = [
    0,
    ACKNOWLEDGE,
    ACKNOWLEDGE | DRIVER,
    ACKNOWLEDGE | DRIVER | FEATURES_OK,
    ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK,
];
/// How often something nasty happens until it has happened enough.
const NASTY_TIMES: u32 = 3;

/// The device.
pub struct StrictDisk {
    model: Model,
    memory: Arc<GuestMemoryMmap>,
    interrupt: Arc<dyn Interrupt>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    complaints: Vec<String>,
    /// Each status that was written.
    statuses: Vec<u32>,
    /// Data segments of each request.
    segments: Vec<usize>,
    status: u32,
    device_sel: u32,
    driver_sel: u32,
    accepted: u64,
    queue_sel: u32,
    queue: Queue,
    interrupt_status: u32,
    generation: u32,
    /// How often the next nasty thing is yet to happen.
    unsteady: u32,
    resetting: u32,
    /// Which requests fail: their types and sectors.
    failing: Vec<(u32, Range<u64>)>,
}

#[derive(Clone, Copy, Default)]
struct Queue {
    size: u32,
    ready: bool,
    descriptors: u64,
    driver: u64,
    device: u64,
    next: u16,
    used: u16,
}

/// A request, taken apart.
struct Request {
    kind: u32,
    sector: u64,
    data: Vec<Descriptor>,
    status: u64,
}

impl StrictDisk {
    pub fn new(
        model: Model,
        bytes: Vec<u8>,
        memory: Arc<GuestMemoryMmap>,
        interrupt: Arc<dyn Interrupt>,
    ) -> StrictDisk {
        let state = State {
            bytes,
            unsteady: NASTY_TIMES,
            ..State::default()
        };
        StrictDisk {
            model,
            memory,
            interrupt,
            state: Mutex::new(state),
        }
    }

    /// What the driver did that it may not do.
    pub fn complaints(&self) -> Vec<String> {
        self.lock().complaints.clone()
    }

    /// What was written to the status register.
    pub fn statuses(&self) -> Vec<u32> {
        self.lock().statuses.clone()
    }

    /// How many data segments each request had, since this was last asked.
    pub fn take_segments(&self) -> Vec<usize> {
        std::mem::take(&mut self.lock().segments)
    }

    /// The bytes of the disk in `range`.
    pub fn bytes(&self, range: Range<usize>) -> Vec<u8> {
        self.lock().bytes[range].to_vec()
    }

    /// Has requests of this type fail that touch one of these sectors.
    pub fn fail(&self, kind: u32, sectors: Range<u64>) {
        self.lock().failing.push((kind, sectors));
    }

    /// Has no request fail any more.
    pub fn fail_nothing(&self) {
        self.lock().failing.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offered(&self) -> u64 {
        self.model.features | F_VERSION_1
    }

    fn config(&self, state: &mut State, offset: u64, data: &mut [u8]) {
        let mut space = [0; blk::config::SIZE];
        let sectors = state.bytes.len() as u64 / blk::SECTOR_SIZE;
        let mut put = |at: u64, bytes: &[u8]| {
            space[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        };
        put(blk::config::CAPACITY, &sectors.to_le_bytes());
        put(blk::config::SIZE_MAX, &self.model.size_max.to_le_bytes());
        put(blk::config::SEG_MAX, &self.model.seg_max.to_le_bytes());
        put(blk::config::BLK_SIZE, &512u32.to_le_bytes());
        put(blk::config::NUM_QUEUES, &4u16.to_le_bytes());
        for (at, byte) in (offset as usize..).zip(data) {
            *byte = space.get(at).copied().unwrap_or(0);
            if self.model.nasty && state.unsteady > 0 {
                *byte ^= 0x5a;
            }
        }
        if self.model.nasty && state.unsteady > 0 {
            state.unsteady -= 1;
            state.generation += 1;
        }
    }

    fn set_status(&self, state: &mut State, value: u32) {
        state.statuses.push(value);
        if value == 0 {
            let kept = State {
                bytes: std::mem::take(&mut state.bytes),
                complaints: std::mem::take(&mut state.complaints),
                statuses: std::mem::take(&mut state.statuses),
                segments: std::mem::take(&mut state.segments),
                failing: std::mem::take(&mut state.failing),
                generation: state.generation,
                unsteady: NASTY_TIMES,
                resetting: if self.model.nasty { NASTY_TIMES } else { 0 },
                ..State::default()
            };
            *state = kept;
        } else if value & FAILED != 0 {
            state.status |= FAILED;
        } else if STEPS.windows(2).any(|step| step == [state.status, value]) {
            let unknown = state.accepted & !self.offered();
            let refused = value & !state.status == FEATURES_OK
                && (unknown != 0 || state.accepted & F_VERSION_1 == 0);
            match refused {
                true => state.complain(format!("features {:#x}", state.accepted)),
                false => state.status = value,
            }
        } else {
            state.complain(format!("status {:#x} -> {value:#x}", state.status));
        }
    }

    fn work(&self, state: &mut State) -> Result<(), GuestMemoryError> {
        let Queue {
            size,
            descriptors,
            driver,
            device,
            ..
        } = state.queue;
        if state.status != STEPS[4] || !state.queue.ready {
            state.complain("a notification of a queue that is not ready".into());
            return Ok(());
        }
        let event_idx = state.accepted & F_EVENT_IDX != 0;
        let mut heads = Vec::new();
        let available: u16 = self.memory.read_obj(GuestAddress(driver + 2))?;
        while state.queue.next != available {
            let place = u64::from(u32::from(state.queue.next) % size);
            heads.push(
                self.memory
                    .read_obj::<u16>(GuestAddress(driver + 4 + 2 * place))?,
            );
            state.queue.next = state.queue.next.wrapping_add(1);
        }
        if heads.len() > size as usize {
            state.complain("more heads than the queue has".into());
        }
        if self.model.nasty {
            heads.reverse();
        }
        let before = state.queue.used;
        for head in heads {
            let request = self.parse(state, descriptors, size, head)?;
            let len = match request {
                Some(request) => self.serve(state, &request)?,
                None => 0,
            };
            let place = u64::from(u32::from(state.queue.used) % size);
            let len = if self.model.nasty { 0 } else { len };
            let entry = UsedElem {
                id: head.into(),
                len,
            };
            let at = GuestAddress(device + 4 + 8 * place);
            self.memory.write_obj(entry.id, at)?;
            self.memory.write_obj(entry.len, GuestAddress(at.0 + 4))?;
            state.queue.used = state.queue.used.wrapping_add(1);
        }
        self.memory
            .write_obj(state.queue.used, GuestAddress(device + 2))?;
        let wanted = if event_idx {
            let at = driver + avail_ring_bytes(size as u16) as u64 - 2;
            let event = self.memory.read_obj(GuestAddress(at))?;
            let at = device + used_ring_bytes(size as u16) as u64 - 2;
            self.memory.write_obj(state.queue.next, GuestAddress(at))?;
            need_event(event, state.queue.used, before)
        } else {
            let flags: u16 = self.memory.read_obj(GuestAddress(driver))?;
            flags & AVAIL_F_NO_INTERRUPT == 0 && state.queue.used != before
        };
        if wanted {
            state.interrupt_status |= mmio::INTERRUPT_USED_RING;
            // The test that waits for it will say so.
            let _ = self.interrupt.trigger();
        }
        Ok(())
    }

    /// Takes a chain apart; `None` if it is none for a disk.
    fn parse(
        &self,
        state: &mut State,
        descriptors: u64,
        size: u32,
        head: u16,
    ) -> Result<Option<Request>, GuestMemoryError> {
        let read = |table: u64, index: u64| {
            let mut bytes = [0; Descriptor::SIZE];
            self.memory
                .read_slice(&mut bytes, GuestAddress(table + 16 * index))?;
            Ok::<_, GuestMemoryError>(Descriptor::from_le_bytes(bytes))
        };
        let mut table = descriptors;
        let mut descriptor = read(table, head.into())?;
        if descriptor.flags & DESC_F_INDIRECT != 0 {
            if state.accepted & F_INDIRECT_DESC == 0 {
                state.complain("an indirect descriptor".into());
                return Ok(None);
            }
            table = descriptor.addr;
            descriptor = read(table, 0)?;
        }
        let mut chain = vec![descriptor];
        while descriptor.flags & DESC_F_NEXT != 0 && chain.len() <= size as usize {
            descriptor = read(table, descriptor.next.into())?;
            chain.push(descriptor);
        }
        let (&[header, .., status], true) = (&chain[..], chain.len() <= size as usize) else {
            state.complain(format!("a chain of {}", chain.len()));
            return Ok(None);
        };
        let data = chain[1..chain.len() - 1].to_vec();
        let kind: u32 = self.memory.read_obj(GuestAddress(header.addr))?;
        let sector = self.memory.read_obj(GuestAddress(header.addr + 8))?;
        let request = Request {
            kind,
            sector,
            data,
            status: status.addr,
        };
        if header.flags & DESC_F_WRITE != 0 || header.len != 16 {
            state.complain(format!("header {header:?}"));
        }
        if status.flags & DESC_F_WRITE == 0 || status.len != 1 {
            state.complain(format!("status {status:?}"));
        }
        self.check_data(state, &request);
        state.segments.push(request.data.len());
        Ok(Some(request))
    }

    fn check_data(&self, state: &mut State, request: &Request) {
        let accepted = |feature| state.accepted & feature != 0;
        // Without seg_max: what the strictest device takes.
        let most = match accepted(blk::F_SEG_MAX) {
            true => self.model.seg_max as usize,
            false => 1,
        };
        let longest = match accepted(blk::F_SIZE_MAX) {
            true => self.model.size_max,
            false => u32::MAX,
        };
        let writes = matches!(request.kind, blk::T_IN | blk::T_GET_ID);
        let flags = |data: &Descriptor| (data.flags & DESC_F_WRITE != 0) == writes;
        let data = &request.data;
        let bytes: u64 = data.iter().map(|data| u64::from(data.len)).sum();
        let wrong_bytes = match request.kind {
            blk::T_IN | blk::T_OUT => bytes == 0 || !bytes.is_multiple_of(blk::SECTOR_SIZE),
            blk::T_GET_ID => bytes != blk::ID_BYTES as u64,
            blk::T_FLUSH => bytes != 0 || !accepted(blk::F_FLUSH),
            _ => true,
        };
        if data.len() > most
            || data.iter().any(|data| data.len > longest)
            || !data.iter().all(flags)
            || wrong_bytes
        {
            state.complain(format!(
                "request {} of {bytes} bytes in {data:?}",
                request.kind
            ));
        }
    }

    /// Does what is asked for, and gives the number of bytes written to memory.
    fn serve(&self, state: &mut State, request: &Request) -> Result<u32, GuestMemoryError> {
        let mut at = request.sector.saturating_mul(blk::SECTOR_SIZE) as usize;
        let bytes: usize = request.data.iter().map(|data| data.len as usize).sum();
        let sectors = request.sector..request.sector + (bytes as u64).div_ceil(blk::SECTOR_SIZE);
        let moves = matches!(request.kind, blk::T_IN | blk::T_OUT);
        let past_end = at.saturating_add(bytes) > state.bytes.len();
        let read_only = self.model.features & blk::F_RO != 0;
        let fails = state.failing.iter().any(|(kind, failing)| {
            *kind == request.kind && failing.start < sectors.end && sectors.start < failing.end
        });
        let status = match request.kind {
            _ if moves && (past_end || fails) => blk::S_IOERR,
            blk::T_OUT if read_only => blk::S_IOERR,
            blk::T_FLUSH if state.accepted & blk::F_FLUSH == 0 => blk::S_UNSUPP,
            blk::T_IN | blk::T_OUT | blk::T_FLUSH | blk::T_GET_ID => blk::S_OK,
            _ => blk::S_UNSUPP,
        };
        let mut written = 1;
        for data in request.data.iter().filter(|_| status == blk::S_OK) {
            let (to, len) = (GuestAddress(data.addr), data.len as usize);
            match request.kind {
                blk::T_IN => self.memory.write_slice(&state.bytes[at..at + len], to)?,
                blk::T_OUT => self.memory.read_slice(&mut state.bytes[at..at + len], to)?,
                _ => {
                    let mut id = [0; blk::ID_BYTES];
                    id[..self.model.id.len()].copy_from_slice(self.model.id.as_bytes());
                    self.memory.write_slice(&id[..len.min(id.len())], to)?;
                }
            }
            at += len;
            written += if request.kind == blk::T_OUT {
                0
            } else {
                data.len
            };
        }
        self.memory
            .write_obj(status, GuestAddress(request.status))?;
        Ok(written)
    }
}

impl State {
    fn complain(&mut self, what: String) {
        self.complaints.push(what);
    }

    /// A change to the queue, which has its time (section 4.2.3.2).
    fn place(&mut self, change: impl FnOnce(&mut Queue)) {
        let negotiated = self.status & FEATURES_OK != 0 && self.status & (DRIVER_OK | FAILED) == 0;
        match negotiated && self.queue_sel == 0 {
            true => change(&mut self.queue),
            false => self.complain(format!("a queue is placed in status {:#x}", self.status)),
        }
    }
}

impl BusDevice for StrictDisk {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = self.lock();
        let state = &mut *state;
        if offset >= mmio::CONFIG {
            return self.config(state, offset - mmio::CONFIG, data);
        }
        let offered = self.offered();
        let value = match offset {
            mmio::MAGIC_VALUE => mmio::MAGIC,
            mmio::VERSION => mmio::VERSION_2,
            mmio::DEVICE_ID => blk::DEVICE_ID,
            mmio::DEVICE_FEATURES if state.device_sel == 0 => offered as u32,
            mmio::DEVICE_FEATURES if state.device_sel == 1 => (offered >> 32) as u32,
            mmio::QUEUE_NUM_MAX if state.queue_sel == 0 => self.model.queue_max,
            mmio::QUEUE_READY => state.queue.ready.into(),
            mmio::INTERRUPT_STATUS => state.interrupt_status,
            mmio::STATUS if state.resetting > 0 => {
                state.resetting -= 1;
                STEPS[4]
            }
            mmio::STATUS => state.status,
            mmio::CONFIG_GENERATION => state.generation,
            _ => 0,
        };
        match data.len() {
            4 => data.copy_from_slice(&value.to_le_bytes()),
            // A program that has the registers mapped may look as it likes.
            _ => data.fill(0),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = self.lock();
        let state = &mut *state;
        let Ok(data) = data.try_into() else {
            return state.complain(format!("a write at {offset:#x} that is no word"));
        };
        let value = u32::from_le_bytes(data);
        let low = |place: &mut u64| *place = *place & !0xffff_ffff | u64::from(value);
        let high = |place: &mut u64| *place = *place & 0xffff_ffff | u64::from(value) << 32;
        match offset {
            mmio::DEVICE_FEATURES_SEL => state.device_sel = value,
            mmio::DRIVER_FEATURES_SEL => state.driver_sel = value,
            mmio::DRIVER_FEATURES if state.status == STEPS[2] && state.driver_sel < 2 => {
                state.accepted |= u64::from(value) << (32 * state.driver_sel);
            }
            mmio::QUEUE_SEL => state.queue_sel = value,
            mmio::QUEUE_NUM => state.place(|queue| queue.size = value),
            mmio::QUEUE_READY => state.place(|queue| queue.ready = value == 1),
            mmio::QUEUE_DESC_LOW => state.place(|queue| low(&mut queue.descriptors)),
            mmio::QUEUE_DESC_HIGH => state.place(|queue| high(&mut queue.descriptors)),
            mmio::QUEUE_DRIVER_LOW => state.place(|queue| low(&mut queue.driver)),
            mmio::QUEUE_DRIVER_HIGH => state.place(|queue| high(&mut queue.driver)),
            mmio::QUEUE_DEVICE_LOW => state.place(|queue| low(&mut queue.device)),
            mmio::QUEUE_DEVICE_HIGH => state.place(|queue| high(&mut queue.device)),
            mmio::QUEUE_NOTIFY if value == 0 => {
                if let Err(error) = self.work(state) {
                    state.complain(error.to_string());
                }
            }
            mmio::INTERRUPT_ACK => state.interrupt_status &= !value,
            mmio::STATUS => self.set_status(state, value),
            _ => state.complain(format!("{value:#x} written at {offset:#x}")),
        }
    }
}
