//! What is answered: the ping, `vm.info`, what a hot-added device became, and events.

mod device;
mod event;
mod info;
mod ping;

pub use device::{DeviceNode, DeviceTree, PciBar, PciDeviceInfo, Resource};
pub use event::{Event, Timestamp};
pub use info::{
    JailInfo, JailedProcess, MemoryRestoreInfo, MemoryRestoreState, MteInfo, VmInfo, VmState, WorkInfo,
};
pub use ping::{HostMte, Ping};

/// `vm.counters`: device → counter → value.
pub type VmCounters = std::collections::BTreeMap<String, std::collections::BTreeMap<String, u64>>;
