//! A front-end for tests, as honest or as hostile as a test wants: it writes messages, memory and the
//! rings of its queues itself, and looks at what comes back.
#![allow(dead_code, reason = "not every program of tests uses all of it")]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use iolite_devices_abi::blk::{RequestHeader, T_FLUSH, T_IN, T_OUT};
use iolite_devices_abi::ring::{DESC_F_NEXT, DESC_F_WRITE, Descriptor};
use iolite_devices_abi::status::F_VERSION_1;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

pub const GET_FEATURES: u32 = 1;
pub const SET_FEATURES: u32 = 2;
pub const SET_OWNER: u32 = 3;
pub const SET_MEM_TABLE: u32 = 5;
pub const SET_VRING_NUM: u32 = 8;
pub const SET_VRING_ADDR: u32 = 9;
pub const SET_VRING_BASE: u32 = 10;
pub const GET_VRING_BASE: u32 = 11;
pub const SET_VRING_KICK: u32 = 12;
pub const SET_VRING_CALL: u32 = 13;
pub const SET_VRING_ERR: u32 = 14;
pub const GET_PROTOCOL_FEATURES: u32 = 15;
pub const SET_PROTOCOL_FEATURES: u32 = 16;
pub const GET_QUEUE_NUM: u32 = 17;
pub const SET_VRING_ENABLE: u32 = 18;
pub const SET_BACKEND_REQ_FD: u32 = 21;
pub const GET_CONFIG: u32 = 24;
pub const SET_CONFIG: u32 = 25;
pub const GET_INFLIGHT_FD: u32 = 31;
pub const SET_INFLIGHT_FD: u32 = 32;
pub const GET_MAX_MEM_SLOTS: u32 = 36;
pub const ADD_MEM_REG: u32 = 37;
pub const REM_MEM_REG: u32 = 38;

/// Among the features: protocol features can be negotiated.
pub const F_PROTOCOL: u64 = 1 << 30;
pub const NEED_REPLY: u32 = 1 << 3;

/// Memory: one region, at guest address 0 and at this address of ours.
pub const MEMORY: u64 = 4 << 20;
pub const USER: u64 = 0x7f00_0000_0000;

/// Parts of queue number n lie this far behind those of queue 0.
const QUEUE_STRIDE: u64 = 0x4_0000;
const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x6000;
const USED: u64 = 0x8000;
const HEADERS: u64 = 0x1_0000;
const STATUS: u64 = 0x1_8000;
/// Buffers of 4 KiB, one for each slot.
pub const DATA: u64 = 0x20_0000;

const PATIENCE: Duration = Duration::from_secs(20);

/// Memory that outlives who maps it.
pub fn memfd(bytes: u64) -> File {
    // SAFETY: the name is a string that ends; the new descriptor is ours.
    let file = unsafe {
        let fd = libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0);
        File::from_raw_fd(fd)
    };
    file.set_len(bytes).unwrap();
    file
}

/// One queue of a front-end.
pub struct Queue {
    pub size: u16,
    pub kick: EventFd,
    pub call: EventFd,
    pub err: EventFd,
    base: u64,
    avail_idx: u16,
    used_seen: u16,
}

/// A front-end, connected.
pub struct FrontEnd {
    pub socket: UnixStream,
    pub shared: File,
    pub memory: GuestMemoryMmap,
    pub queues: Vec<Queue>,
    pub in_flight: Option<(Vec<u8>, File)>,
    pub features: u64,
}

impl FrontEnd {
    /// A front-end with fresh memory and `queues` queues of `size` entries.
    pub fn new(socket: UnixStream, queues: usize, size: u16) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let shared = memfd(MEMORY);
        let offset = FileOffset::new(shared.try_clone().unwrap(), 0);
        let mapping = MmapRegion::from_file(offset, MEMORY as usize).unwrap();
        let region = GuestRegionMmap::new(mapping, GuestAddress(0)).unwrap();
        let queue = |number| Queue {
            size,
            kick: EventFd::new(EFD_NONBLOCK).unwrap(),
            call: EventFd::new(EFD_NONBLOCK).unwrap(),
            err: EventFd::new(EFD_NONBLOCK).unwrap(),
            base: QUEUE_STRIDE * number,
            avail_idx: 0,
            used_seen: 0,
        };
        FrontEnd {
            socket,
            shared,
            memory: GuestMemoryMmap::from_arc_regions(vec![Arc::new(region)]).unwrap(),
            queues: (0..queues as u64).map(queue).collect(),
            in_flight: None,
            features: F_VERSION_1 | F_PROTOCOL,
        }
    }

    // Messages.

    pub fn send(&self, request: u32, flags: u32, payload: &[u8], fds: &[RawFd]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for word in [request, 1 | flags, payload.len() as u32] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(payload);
        let sent = self.socket.send_with_fds(&[&bytes[..]], fds);
        sent.map_err(|error| io::Error::from_raw_os_error(error.errno()))
            .map(|sent| assert_eq!(sent, bytes.len()))
    }

    /// A reply: number, payload, and a descriptor perhaps. None if the connection has ended.
    pub fn receive(&self) -> Option<(u32, Vec<u8>, Option<File>)> {
        let mut header = [0; 12];
        let (bytes, file) = self.socket.recv_with_fd(&mut header).ok()?;
        if bytes != header.len() {
            return None;
        }
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        assert_eq!(word(4), 1 | 1 << 2, "no reply");
        let mut payload = vec![0; word(8) as usize];
        (&self.socket).read_exact(&mut payload).ok()?;
        Some((word(0), payload, file))
    }

    /// Sends something that is always answered; none if the connection has ended.
    pub fn ask(&self, request: u32, payload: &[u8], fds: &[RawFd]) -> Option<Vec<u8>> {
        self.send(request, 0, payload, fds).ok()?;
        let (number, payload, _) = self.receive()?;
        assert_eq!(number, request);
        Some(payload)
    }

    /// Sends something and waits for the word that it was done: true, or refused: false; none if the
    /// connection has ended.
    pub fn tell(&self, request: u32, payload: &[u8], fds: &[RawFd]) -> Option<bool> {
        self.send(request, NEED_REPLY, payload, fds).ok()?;
        let (number, payload, _) = self.receive()?;
        assert_eq!(number, request);
        Some(payload == [0; 8])
    }

    pub fn ask_u64(&self, request: u32) -> u64 {
        let payload = self.ask(request, &[], &[]).expect("an answer");
        u64::from_le_bytes(payload.try_into().unwrap())
    }

    // Setting up.

    /// Negotiates, and sets all queues up.
    pub fn start(&mut self) {
        self.negotiate();
        self.share_memory();
        for queue in 0..self.queues.len() {
            self.start_queue(queue, 0);
        }
    }

    pub fn negotiate(&self) {
        let offered = self.ask_u64(GET_FEATURES);
        assert_eq!(self.features & !offered, 0, "{offered:#x}");
        let protocol = self.ask_u64(GET_PROTOCOL_FEATURES);
        self.send(SET_PROTOCOL_FEATURES, 0, &protocol.to_le_bytes(), &[])
            .unwrap();
        self.done(SET_OWNER, &[], &[]);
        self.done(SET_FEATURES, &self.features.to_le_bytes(), &[]);
    }

    #[track_caller]
    fn done(&self, request: u32, payload: &[u8], fds: &[RawFd]) {
        assert_eq!(
            self.tell(request, payload, fds),
            Some(true),
            "request {request}"
        );
    }

    pub fn share_memory(&self) {
        let table = [1, 0, MEMORY, USER, 0].map(u64::to_le_bytes);
        self.done(
            SET_MEM_TABLE,
            table.as_flattened(),
            &[self.shared.as_raw_fd()],
        );
    }

    /// Memory for what is in flight, of the back-end's, or what it got before.
    pub fn track_in_flight(&mut self) {
        if self.in_flight.is_none() {
            let mut spec = vec![0; 16];
            spec.extend_from_slice(&(self.queues.len() as u16).to_le_bytes());
            spec.extend_from_slice(&self.queues[0].size.to_le_bytes());
            spec.extend_from_slice(&[0; 4]);
            self.send(GET_INFLIGHT_FD, 0, &spec, &[]).unwrap();
            let (_, spec, file) = self.receive().unwrap();
            self.in_flight = Some((spec, file.unwrap()));
        }
        let (spec, file) = self.in_flight.as_ref().unwrap();
        self.done(SET_INFLIGHT_FD, spec, &[file.as_raw_fd()]);
    }

    pub fn vring_addr(&self, queue: usize) -> Vec<u8> {
        let base = USER + self.queues[queue].base;
        let addresses = [queue as u64, base + DESC, base + USED, base + AVAIL, 0];
        addresses.map(u64::to_le_bytes).concat()
    }

    /// Sets a queue up, to begin at `base`.
    pub fn start_queue(&mut self, number: usize, base: u16) {
        let queue = &self.queues[number];
        let pair = |value: u32| [(number as u32).to_le_bytes(), value.to_le_bytes()].concat();
        let index = (number as u64).to_le_bytes();
        self.done(SET_VRING_NUM, &pair(queue.size.into()), &[]);
        self.done(SET_VRING_BASE, &pair(base.into()), &[]);
        self.done(SET_VRING_ADDR, &self.vring_addr(number), &[]);
        self.done(SET_VRING_CALL, &index, &[queue.call.as_raw_fd()]);
        self.done(SET_VRING_ERR, &index, &[queue.err.as_raw_fd()]);
        self.done(SET_VRING_KICK, &index, &[queue.kick.as_raw_fd()]);
        self.done(SET_VRING_ENABLE, &pair(1), &[]);
    }

    /// Stops a queue; returns where it goes on.
    pub fn stop_queue(&self, number: usize) -> u16 {
        let index = (number as u64).to_le_bytes();
        let base = self.ask(GET_VRING_BASE, &index, &[]).expect("a base");
        assert_eq!(base[..4], (number as u32).to_le_bytes());
        u32::from_le_bytes(base[4..].try_into().unwrap()) as u16
    }

    // Requests.

    /// Makes a request available, in slot `slot` of a queue: three descriptors, and 4 KiB of data.
    pub fn submit(&mut self, queue: usize, slot: u16, request_type: u32, sector: u64) {
        let q = &self.queues[queue];
        let header = RequestHeader {
            request_type,
            reserved: 0,
            sector,
        };
        let header_at = q.base + HEADERS + 16 * u64::from(slot);
        let status_at = q.base + STATUS + u64::from(slot);
        self.put(header_at, &header.to_le_bytes());
        self.put(status_at, &[0xaa]);
        let data = (
            Self::data_at(slot),
            4096,
            if request_type == T_IN {
                DESC_F_WRITE
            } else {
                0
            },
        );
        let (header, status) = ((header_at, 16, 0), (status_at, 1, DESC_F_WRITE));
        match request_type {
            T_IN | T_OUT => self.chain(queue, 3 * slot, &[header, data, status]),
            _ => self.chain(queue, 3 * slot, &[header, status]),
        }
        self.make_available(queue, 3 * slot);
    }

    pub fn chain(&self, queue: usize, first: u16, pieces: &[(u64, u32, u16)]) {
        for (position, &(addr, len, flags)) in (0u16..).zip(pieces) {
            let last = usize::from(position) + 1 == pieces.len();
            let descriptor = Descriptor {
                addr,
                len,
                flags: flags | if last { 0 } else { DESC_F_NEXT },
                next: first + position + 1,
            };
            let at = self.queues[queue].base + DESC + 16 * u64::from(first + position);
            self.put(at, &descriptor.to_le_bytes());
        }
    }

    pub fn make_available(&mut self, queue: usize, head: u16) {
        let q = &mut self.queues[queue];
        let slot = u64::from(q.avail_idx % q.size);
        q.avail_idx = q.avail_idx.wrapping_add(1);
        let (at, idx) = (q.base + AVAIL, q.avail_idx);
        self.put(at + 4 + 2 * slot, &head.to_le_bytes());
        fence(Ordering::SeqCst);
        self.memory
            .store(idx, GuestAddress(at + 2), Ordering::Release)
            .unwrap();
    }

    pub fn kick(&self, queue: usize) {
        self.queues[queue].kick.write(1).unwrap();
    }

    /// The slot of the next used entry, if there is one.
    pub fn used(&mut self, queue: usize) -> Option<u16> {
        let q = &self.queues[queue];
        let at = GuestAddress(q.base + USED + 2);
        let idx: u16 = self.memory.load(at, Ordering::Acquire).unwrap();
        if idx == q.used_seen {
            return None;
        }
        let at = q.base + USED + 4 + 8 * u64::from(q.used_seen % q.size);
        let head: u32 = self.memory.read_obj(GuestAddress(at)).unwrap();
        self.queues[queue].used_seen = self.queues[queue].used_seen.wrapping_add(1);
        Some(head as u16 / 3)
    }

    /// Waits for the next used entry: its slot and status.
    pub fn wait(&mut self, queue: usize) -> Option<(u16, u8)> {
        let mut slot = None;
        eventually(|| {
            slot = self.used(queue);
            slot.is_some()
        });
        let status_at = self.queues[queue].base + STATUS;
        slot.map(|slot| (slot, self.get::<u8>(status_at + u64::from(slot))))
    }

    /// One request from beginning to end: its status.
    pub fn request(&mut self, queue: usize, request_type: u32, sector: u64) -> u8 {
        self.submit(queue, 0, request_type, sector);
        self.kick(queue);
        self.wait(queue).expect("the request is not answered").1
    }

    pub fn read(&mut self, sector: u64) -> Vec<u8> {
        assert_eq!(self.request(0, T_IN, sector), 0);
        self.data(0)
    }

    pub fn write(&mut self, sector: u64, bytes: &[u8]) -> u8 {
        self.put(Self::data_at(0), bytes);
        self.request(0, T_OUT, sector)
    }

    pub fn flush(&mut self) -> u8 {
        self.request(0, T_FLUSH, 0)
    }

    pub fn data_at(slot: u16) -> u64 {
        DATA + 4096 * u64::from(slot)
    }

    pub fn data(&self, slot: u16) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        self.memory
            .read_slice(&mut bytes, GuestAddress(Self::data_at(slot)))
            .unwrap();
        bytes
    }

    pub fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    pub fn get<T: vm_memory::ByteValued>(&self, at: u64) -> T {
        self.memory.read_obj(GuestAddress(at)).unwrap()
    }

    /// The used index, set behind the device's back.
    pub fn used_idx_at(&self, queue: usize) -> u64 {
        self.queues[queue].base + USED + 2
    }

    /// The available index, likewise.
    pub fn avail_idx_at(&self, queue: usize) -> u64 {
        self.queues[queue].base + AVAIL + 2
    }

    /// The same guest, on another connection.
    pub fn reconnect(&mut self, socket: UnixStream) {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        self.socket = socket;
        self.negotiate();
        self.track_in_flight();
        self.share_memory();
        for queue in 0..self.queues.len() {
            // As QEMU does: what the used ring says, which the memory for what is in flight corrects.
            let used_idx: u16 = self.get(self.used_idx_at(queue));
            self.start_queue(queue, used_idx);
        }
    }
}

/// A pipe's end, which is no eventfd.
pub fn pipe() -> OwnedFd {
    io::pipe().unwrap().0.into()
}

/// Waits for what must happen.
pub fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > end {
            return false;
        }
        std::thread::yield_now();
    }
    true
}
