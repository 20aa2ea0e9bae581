//! Save and restore. Saving copies each device's one state struct; restoring destructures it, so
//! that a field added later does not compile until its check is thought of. States come from a
//! peer or a file, so each value is checked, and nothing is taken over before all are.

use serde::{Deserialize, Serialize};

use super::block::BlockState;
use super::console::ConsoleState;
use super::device::Device;
use super::error::{Fault, VirtioError};
use super::mmio::VirtioMmio;
use super::net::NetState;
use super::queue::QueueState;
use super::rng::RngState;
use super::spec::{feature, interrupt, status};
use crate::RestoreError;

/// Everything a virtio device knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtioMmioState {
    /// The registers.
    pub transport: TransportState,
    /// The queues, by index.
    pub queues: Vec<QueueState>,
    /// The device behind them.
    pub device: DeviceState,
}

/// The registers of the window that are the same for all devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportState {
    /// DeviceFeaturesSel.
    pub device_features_sel: u32,
    /// DriverFeaturesSel.
    pub driver_features_sel: u32,
    /// The features the driver accepted so far.
    pub driver_features: u64,
    /// QueueSel.
    pub queue_sel: u32,
    /// Status.
    pub status: u32,
    /// InterruptStatus.
    pub interrupt_status: u32,
    /// Why DEVICE_NEEDS_RESET is set.
    pub fault: Option<Fault>,
}

impl TransportState {
    /// Whether the driver is there (DRIVER_OK) and has not been given up (or given up itself).
    pub(super) fn is_live(&self) -> bool {
        let bits = status::DRIVER_OK | status::FAILED | status::NEEDS_RESET;
        self.status & bits == status::DRIVER_OK
    }
}

/// State of one kind of device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceState {
    /// virtio-blk.
    Block(BlockState),
    /// virtio-net.
    Net(NetState),
    /// virtio-rng.
    Rng(RngState),
    /// virtio-console.
    Console(ConsoleState),
}

impl VirtioMmio {
    /// The device's whole state.
    pub fn save(&self) -> VirtioMmioState {
        VirtioMmioState {
            transport: self.transport.clone(),
            queues: self
                .queues
                .iter()
                .map(|queue| queue.state.clone())
                .collect(),
            device: match &self.device {
                Device::Block(block) => DeviceState::Block(block.save()),
                Device::Net(net) => DeviceState::Net(net.save()),
                Device::Rng(rng) => DeviceState::Rng(rng.save()),
                Device::Console(console) => DeviceState::Console(console.save()),
            },
        }
    }

    /// Takes a saved state over.
    ///
    /// # Errors
    /// [`VirtioError::State`] names the field that this device, configured as it is, cannot have
    /// had. The device is unchanged.
    pub fn restore(&mut self, state: VirtioMmioState) -> Result<(), VirtioError> {
        let VirtioMmioState {
            transport,
            queues,
            device,
        } = state;
        let name = self.device.name();
        check_transport(&transport, self.offered(), self.queues.len(), name)?;
        let negotiated = transport.status & status::FEATURES_OK != 0;
        RestoreError::check(queues.len() == self.queues.len(), name, "queues")?;
        for (queue, state) in self.queues.iter().zip(&queues) {
            RestoreError::check(negotiated || !state.ready, name, "queue.ready")?;
            queue.check(state, name)?;
        }
        match (&mut self.device, device) {
            (Device::Block(block), DeviceState::Block(state)) => {
                let live_queue = transport.is_live().then_some(&queues[0]);
                block.restore(state, live_queue)?;
            }
            (Device::Net(net), DeviceState::Net(state)) => net.restore(state)?,
            (Device::Rng(rng), DeviceState::Rng(state)) => rng.restore(state)?,
            (Device::Console(console), DeviceState::Console(state)) => console.restore(state)?,
            _ => return Err(RestoreError::field(name, "device").into()),
        }
        // Nothing below fails.
        let features = if negotiated {
            transport.driver_features
        } else {
            0
        };
        for (queue, state) in self.queues.iter_mut().zip(queues) {
            queue.state = state;
            queue.set_features(features);
        }
        self.transport = transport;
        Ok(())
    }
}

fn check_transport(
    transport: &TransportState,
    offered: u64,
    queues: usize,
    name: &'static str,
) -> Result<(), RestoreError> {
    let TransportState {
        device_features_sel: _,
        driver_features_sel: _,
        driver_features,
        queue_sel: _,
        status,
        interrupt_status,
        fault,
    } = transport;
    let check = |valid, field| RestoreError::check(valid, name, field);
    let has = |bit: u32| status & bit != 0;
    check(
        status & !(status::DRIVERS | status::NEEDS_RESET) == 0,
        "status",
    )?;
    check(
        !has(status::DRIVER_OK) || has(status::FEATURES_OK),
        "status",
    )?;
    let acceptable = driver_features & !offered == 0 && driver_features & feature::VERSION_1 != 0;
    check(!has(status::FEATURES_OK) || acceptable, "driver_features")?;
    check(interrupt_status & !interrupt::ALL == 0, "interrupt_status")?;
    check(fault.is_some() == has(status::NEEDS_RESET), "fault")?;
    check(
        fault.is_none_or(|fault| usize::from(fault.queue) < queues),
        "fault.queue",
    )
}
