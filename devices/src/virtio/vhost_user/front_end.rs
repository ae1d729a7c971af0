//! What a front-end has said so far, and what becomes of it: each [`Request`] changes a little of it
//! and has the device do the rest. When a front-end goes, all it said is forgotten, and only the disk
//! is left.

use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use iolite_devices_abi::blk::F_CONFIG_WCE;
use iolite_devices_abi::status::F_RING_RESET;

use super::channel::{Channel, ChannelError};
use super::eventfd::SharedEventFd;
use super::line::{Changes, Line};
use super::memory::{MAX_REGIONS, Memory, MemoryError, Shared};
use super::message::{self, InFlightSpec, Request, RingAddresses};
use super::vring::Vring;
use crate::doorbell::Doorbell;
use crate::lines::Lines;
use crate::virtio::device::{Activation, QueueStart, VirtioDevice};
use crate::virtio::in_flight::{InFlightRegion, region_bytes};
use crate::virtio::notifier::Notifier;
use crate::virtio::setup::SetupError;

/// VHOST_USER_F_PROTOCOL_FEATURES, among the device's features.
const F_PROTOCOL_FEATURES: u64 = 1 << 30;
/// Protocol features.
pub(super) mod protocol {
    pub const MQ: u64 = 1 << 0;
    pub const REPLY_ACK: u64 = 1 << 3;
    pub const BACKEND_REQ: u64 = 1 << 5;
    pub const CONFIG: u64 = 1 << 9;
    pub const INFLIGHT_SHMFD: u64 = 1 << 12;
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    /// What is offered.
    pub const ALL: u64 =
        MQ | REPLY_ACK | BACKEND_REQ | CONFIG | INFLIGHT_SHMFD | CONFIGURE_MEM_SLOTS;
}

/// How long to wait at a time for what is in flight.
const DRAIN_STEP: Duration = Duration::from_secs(1);
/// How long a front-end may keep us waiting that does not read what we tell it.
const TELL_LIMIT: Duration = Duration::from_secs(1);

/// Why something cannot be done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error("queue {0}: {1}")]
    Queue(usize, SetupError),
    #[error("there is no queue {0}")]
    NoQueue(u32),
    #[error("queue {0} is at work")]
    Busy(u32),
    #[error("queue {0}: {1}")]
    Vring(u32, &'static str),
    #[error("features {0:#x} were not offered, or are changed while a queue is at work")]
    Features(u64),
    #[error("{0}")]
    Other(&'static str),
    #[error("the system refuses memory: {0}")]
    System(std::io::Error),
}

/// What goes back.
pub(super) enum Answer {
    /// That it was done, if somebody asked.
    Done,
    /// What was asked for.
    Payload(Vec<u8>),
    /// The same with a descriptor.
    File(Vec<u8>, File),
}

impl Answer {
    fn u64(value: u64) -> Self {
        Answer::Payload(value.to_le_bytes().to_vec())
    }
}

/// A queue of the device, as far as the transport is concerned.
pub(super) struct Queue {
    pub(super) doorbell: Doorbell,
    pub(super) line: Arc<Line>,
    pub(super) notifier: Arc<Notifier>,
}

/// The device and its front-end.
pub(super) struct FrontEnd {
    device: Arc<dyn VirtioDevice>,
    queues: Vec<Queue>,
    /// Changes of the configuration.
    changes: Arc<Changes>,
    said: Said,
}

/// What the front-end has said.
#[derive(Default)]
struct Said {
    features: u64,
    protocol_features: u64,
    memory: Memory,
    vrings: Vec<Vring>,
    in_flight: Option<InFlight>,
    /// Where to tell it of changes.
    back_channel: Option<Channel>,
    /// The device has been activated.
    active: bool,
}

struct InFlight {
    shared: Shared,
    /// Bytes from one queue's region to the next one's.
    stride: usize,
}

impl FrontEnd {
    pub(super) fn new(
        device: Arc<dyn VirtioDevice>,
        queues: Vec<Queue>,
        changes: Arc<Changes>,
    ) -> Self {
        let mut front_end = FrontEnd {
            device,
            queues,
            changes,
            said: Said::default(),
        };
        front_end.forget();
        front_end
    }

    /// The front-end has gone: stops all queues, waits for what is in flight, forgets what was said.
    pub(super) fn leave(&mut self) {
        for index in 0..self.queues.len() {
            self.stop(index);
        }
        self.deactivate();
        self.forget();
    }

    fn forget(&mut self) {
        for queue in &self.queues {
            queue.line.cut();
        }
        // A change that nobody has been told of is one that the next front-end finds.
        self.changes.take();
        let vrings = self.queues.iter().map(|_| Vring::default());
        self.said = Said {
            vrings: vrings.collect(),
            ..Said::default()
        };
    }

    /// Whether answers to what needs none were negotiated.
    pub(super) fn acknowledges(&self) -> bool {
        self.said.protocol_features & protocol::REPLY_ACK != 0
    }

    /// The configuration has changed: tells the front-end, if it listens.
    pub(super) fn tell_of_change(&mut self) -> Result<(), ChannelError> {
        match &self.said.back_channel {
            Some(channel) => channel.tell(message::CONFIG_CHANGE),
            None => Ok(()),
        }
    }

    /// Does what is asked for.
    pub(super) fn handle(&mut self, request: Request) -> Result<Answer, Refusal> {
        match request {
            Request::GetFeatures => return Ok(Answer::u64(self.offered())),
            Request::SetFeatures(features) => self.set_features(features)?,
            Request::SetOwner => {}
            Request::ResetOwner => self.disable_all(),
            Request::SetMemTable(table) => {
                let memory = Memory::new(table)?;
                self.change_memory(|said| {
                    said.memory = memory;
                    Ok(())
                })?;
            }
            Request::SetVringNum { index, size } => self.set_size(index, size)?,
            Request::SetVringAddr {
                index,
                flags,
                addresses,
            } => self.set_addresses(index, flags, addresses)?,
            Request::SetVringBase { index, base } => self.set_base(index, base)?,
            Request::GetVringBase { index } => return self.take_base(index),
            Request::SetVringKick { index, eventfd } => self.set_kick(index.into(), eventfd)?,
            Request::SetVringCall { index, eventfd } => {
                let call = eventfd.map(|file| shared(index.into(), file)).transpose()?;
                self.queue(index.into())?.line.set_call(call);
            }
            Request::SetVringErr { index, eventfd } => {
                let err = eventfd.map(|file| shared(index.into(), file)).transpose()?;
                self.queue(index.into())?.line.set_err(err);
            }
            Request::GetProtocolFeatures => return Ok(Answer::u64(protocol::ALL)),
            Request::SetProtocolFeatures(features) => {
                if features & !protocol::ALL != 0 {
                    return Err(Refusal::Features(features));
                }
                self.said.protocol_features = features;
            }
            Request::GetQueueNum => return Ok(Answer::u64(self.queues.len() as u64)),
            Request::SetVringEnable { index, on } => self.enable(index, on)?,
            Request::SetBackendReqFd(file) => self.set_back_channel(file)?,
            Request::GetConfig {
                offset,
                bytes,
                flags,
            } => return Ok(self.config(offset, bytes, flags)),
            Request::SetConfig { offset, data } => self.device.write_config(offset.into(), &data),
            Request::GetInflightFd(spec) => return self.new_in_flight(spec),
            Request::SetInflightFd(spec, file) => self.set_in_flight(spec, file)?,
            Request::GetMaxMemSlots => return Ok(Answer::u64(MAX_REGIONS as u64)),
            Request::AddMemReg(spec, file) => {
                self.change_memory(|said| said.memory.add(spec, file))?;
            }
            Request::RemMemReg(spec) => self.change_memory(|said| said.memory.remove(&spec))?,
        }
        Ok(Answer::Done)
    }

    /// The features that a front-end may accept. A cache mode that the driver chose would be lost with
    /// this process, and a queue is reset here by stopping it.
    fn offered(&self) -> u64 {
        self.device.device_features() & !(F_CONFIG_WCE | F_RING_RESET) | F_PROTOCOL_FEATURES
    }

    fn set_features(&mut self, features: u64) -> Result<(), Refusal> {
        if features == self.said.features {
            return Ok(());
        }
        if features & !self.offered() != 0 || self.said.vrings.iter().any(|vring| vring.live) {
            return Err(Refusal::Features(features));
        }
        self.said.features = features;
        self.deactivate();
        self.device.settle(features & !F_PROTOCOL_FEATURES);
        Ok(())
    }

    fn queue(&self, index: u32) -> Result<&Queue, Refusal> {
        let queue = usize::try_from(index)
            .ok()
            .and_then(|index| self.queues.get(index));
        queue.ok_or(Refusal::NoQueue(index))
    }

    /// A queue that may be described anew, because the device does not have it.
    fn resting(&mut self, index: u32) -> Result<&mut Vring, Refusal> {
        match self.vring(index)? {
            vring if vring.live => Err(Refusal::Busy(index)),
            vring => Ok(vring),
        }
    }

    fn vring(&mut self, index: u32) -> Result<&mut Vring, Refusal> {
        let vrings = &mut self.said.vrings;
        let vring = usize::try_from(index)
            .ok()
            .and_then(|index| vrings.get_mut(index));
        vring.ok_or(Refusal::NoQueue(index))
    }

    fn set_size(&mut self, index: u32, size: u32) -> Result<(), Refusal> {
        let most = usize::try_from(index).ok();
        let most = most.and_then(|at| self.device.queue_max_sizes().get(at).copied());
        let most = most.ok_or(Refusal::NoQueue(index))?;
        let size = u16::try_from(size).ok();
        let size = size.filter(|size| size.is_power_of_two() && *size <= most);
        let size = size.ok_or(Refusal::Vring(
            index,
            "its size is no power of two up to queue-size=",
        ))?;
        self.resting(index)?.size = size;
        Ok(())
    }

    fn set_addresses(
        &mut self,
        index: u32,
        flags: u32,
        addresses: RingAddresses,
    ) -> Result<(), Refusal> {
        if flags != 0 {
            return Err(Refusal::Vring(index, "changes of memory are not logged"));
        }
        let vring = self.vring(index)?;
        if vring.live && vring.addresses != Some(addresses) {
            return Err(Refusal::Busy(index));
        }
        vring.addresses = Some(addresses);
        Ok(())
    }

    fn set_base(&mut self, index: u32, base: u32) -> Result<(), Refusal> {
        let base = u16::try_from(base)
            .map_err(|_| Refusal::Vring(index, "its base is no index of a split virtqueue"))?;
        self.resting(index)?.base = base;
        Ok(())
    }

    /// GET_VRING_BASE stops the queue; what it pops next is the answer.
    fn take_base(&mut self, index: u32) -> Result<Answer, Refusal> {
        self.vring(index)?;
        self.stop(index as usize);
        let vring = self.vring(index)?;
        let reply = [index, vring.base.into()].map(u32::to_le_bytes);
        Ok(Answer::Payload(reply.concat()))
    }

    fn set_kick(&mut self, index: u32, eventfd: Option<File>) -> Result<(), Refusal> {
        let Some(file) = eventfd else {
            return Err(Refusal::Vring(index, "it is to be polled for ever"));
        };
        let kick = shared(index, file)?;
        let queue = self.queue(index)?;
        queue
            .doorbell
            .watch(&kick)
            .map_err(|_| Refusal::Vring(index, "its kick is no eventfd"))?;
        let doorbell = queue.doorbell.clone();
        if let Some(before) = self.vring(index)?.kick.replace(kick) {
            doorbell.unwatch(&before);
        }
        self.start_if_due(index)
    }

    fn enable(&mut self, index: u32, on: bool) -> Result<(), Refusal> {
        self.vring(index)?.enabled = on;
        if on {
            return self.start_if_due(index);
        }
        self.pause(index as usize);
        Ok(())
    }

    fn disable_all(&mut self) {
        for index in 0..self.queues.len() {
            self.said.vrings[index].enabled = false;
            self.pause(index);
        }
    }

    /// Gives a queue to the device, if it is started and enabled and is not the device's already.
    fn start_if_due(&mut self, index: u32) -> Result<(), Refusal> {
        let always = self.said.features & F_PROTOCOL_FEATURES == 0;
        let vring = self.vring(index)?;
        if vring.live || vring.kick.is_none() || !(vring.enabled || always) {
            return Ok(());
        }
        self.start(index as usize)
    }

    fn start(&mut self, index: usize) -> Result<(), Refusal> {
        let said = &mut self.said;
        let memory = said.memory.guest()?;
        let vring = &mut said.vrings[index];
        let layout = vring
            .layout(&said.memory, &memory)
            .map_err(|error| Refusal::Queue(index, error))?;
        let region = said
            .in_flight
            .as_ref()
            .and_then(|InFlight { shared, stride }| {
                let memory = &shared.mapping;
                let region = InFlightRegion::new(memory, index * stride, layout.size);
                region.filter(|_| region_bytes(layout.size) <= *stride)
            });
        let longest = self.device.queue_max_sizes()[index];
        let from = vring.position(&memory, &layout, region, longest);
        vring.live = true;
        let features = said.features & !F_PROTOCOL_FEATURES;
        if !std::mem::replace(&mut said.active, true) {
            let queues = Vec::new();
            let mut lines = Lines::default();
            self.device
                .activate(Activation { features, queues }, &mut lines);
        }
        let queue = &self.queues[index];
        queue.notifier.reset();
        let start = QueueStart {
            layout,
            memory,
            from,
        };
        let mut lines = Lines::default();
        let number = index as u16;
        self.device
            .activate_queue(number, start, features, &mut lines);
        // There may be buffers that nobody notifies of any more.
        queue.doorbell.ring();
        Ok(())
    }

    /// Takes a queue from the device, when nothing of it is in flight any more.
    fn pause(&mut self, index: usize) {
        if !self.said.vrings[index].live {
            return;
        }
        while !self.device.release_queue(index as u16, DRAIN_STEP) {}
        let vring = &mut self.said.vrings[index];
        vring.live = false;
        vring.base = self.device.next_avail(index as u16);
    }

    /// The same, and it is not started any more.
    fn stop(&mut self, index: usize) {
        self.pause(index);
        if let Some(kick) = self.said.vrings[index].kick.take() {
            self.queues[index].doorbell.unwatch(&kick);
        }
    }

    /// Lets go of the device, none of whose queues is live.
    fn deactivate(&mut self) {
        if std::mem::replace(&mut self.said.active, false) {
            while !self.device.reset(DRAIN_STEP) {}
        }
    }

    /// Changes the memory while no queue works on it.
    fn change_memory(
        &mut self,
        change: impl FnOnce(&mut Said) -> Result<(), MemoryError>,
    ) -> Result<(), Refusal> {
        let live: Vec<usize> = (0..self.queues.len())
            .filter(|&index| self.said.vrings[index].live)
            .collect();
        for &index in &live {
            self.pause(index);
        }
        let changed = change(&mut self.said);
        for index in live {
            self.start(index)?;
        }
        Ok(changed?)
    }

    fn set_back_channel(&mut self, file: File) -> Result<(), Refusal> {
        let socket = UnixStream::from(OwnedFd::from(file));
        let is_one = socket.peer_addr().is_ok();
        if !is_one || socket.set_write_timeout(Some(TELL_LIMIT)).is_err() {
            return Err(Refusal::Other("the channel back is no UNIX socket"));
        }
        self.said.back_channel = Some(Channel::new(socket));
        Ok(())
    }

    fn config(&self, offset: u32, bytes: u32, flags: u32) -> Answer {
        let mut data = vec![0; bytes as usize];
        self.device.read_config(offset.into(), &mut data);
        let head = [offset, bytes, flags].map(u32::to_le_bytes);
        Answer::Payload([head.as_flattened(), &data].concat())
    }

    /// GET_INFLIGHT_FD: new memory, which the front-end will give back.
    fn new_in_flight(&mut self, spec: InFlightSpec) -> Result<Answer, Refusal> {
        let bytes = usize::from(self.in_flight_queues(&spec)?) * self.stride();
        let file = sealed_memory(bytes).map_err(Refusal::System)?;
        let mut payload = Vec::new();
        payload.extend_from_slice(&(bytes as u64).to_le_bytes());
        payload.extend_from_slice(&0u64.to_le_bytes());
        payload.extend_from_slice(&spec.queues.to_le_bytes());
        payload.extend_from_slice(&spec.queue_size.to_le_bytes());
        payload.extend_from_slice(&[0; 4]);
        Ok(Answer::File(payload, file))
    }

    fn set_in_flight(&mut self, spec: InFlightSpec, file: File) -> Result<(), Refusal> {
        let queues = usize::from(self.in_flight_queues(&spec)?);
        let bytes = usize::try_from(spec.bytes).unwrap_or(usize::MAX);
        let fits = (queues..=queues * region_bytes(u16::MAX)).contains(&bytes);
        if !fits || self.said.vrings.iter().any(|vring| vring.live) {
            return Err(Refusal::Other("memory for what is in flight does not fit"));
        }
        let shared = Shared::map(file, spec.offset, bytes)?;
        self.said.in_flight = Some(InFlight {
            shared,
            stride: bytes / queues,
        });
        Ok(())
    }

    /// For how many queues the memory is.
    fn in_flight_queues(&self, spec: &InFlightSpec) -> Result<u16, Refusal> {
        match usize::from(spec.queues) {
            queues if (1..=self.queues.len()).contains(&queues) => Ok(spec.queues),
            _ => Err(Refusal::Other(
                "memory for what is in flight of other queues",
            )),
        }
    }

    /// Bytes for each queue, as large as it may be: a driver need not keep to the size that its
    /// front-end was told (QEMU's virtio-mmio says so of no queue).
    fn stride(&self) -> usize {
        let sizes = self.device.queue_max_sizes().iter();
        sizes.map(|&size| region_bytes(size)).max().unwrap_or(0)
    }
}

fn shared(index: u32, file: File) -> Result<SharedEventFd, Refusal> {
    SharedEventFd::new(file).ok_or(Refusal::Vring(index, "what should be an eventfd is none"))
}

/// Memory of `bytes` zeros whose size nobody can change.
#[allow(unsafe_code)]
fn sealed_memory(bytes: usize) -> std::io::Result<File> {
    // SAFETY: the name is a string that ends; the call returns a new descriptor, which is ours.
    let file = unsafe {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        match libc::memfd_create(c"iolite-in-flight".as_ptr(), flags) {
            ..0 => return Err(std::io::Error::last_os_error()),
            fd => File::from_raw_fd(fd),
        }
    };
    file.set_len(bytes as u64)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: the call takes an open descriptor and flags.
    match unsafe {
        libc::fcntl(
            std::os::fd::AsRawFd::as_raw_fd(&file),
            libc::F_ADD_SEALS,
            seals,
        )
    } {
        0 => Ok(file),
        _ => Err(std::io::Error::last_os_error()),
    }
}
