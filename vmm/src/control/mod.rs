//! The process with the API: it opens, spawns, watches and reaps. It never maps guest memory and never reads what a
//! guest wrote.
//!
//! ```text
//!  admission  the table: request × state → run or refused
//!  plan       the steps of one request            driver  runs them, owns the state
//!  create     vm.create                            boot    vm.boot: files, devices, specification
//!  counters   vm.counters                          metrics GET /metrics
//!  info       vmm.ping, vm.info                    events  the event monitor
//!  devices    what each kind of device is started with
//!  orders     requests to device processes
//!  children   device processes                     link    the socket to `machine`
//!  outside    devices that other programs serve
//! ```

mod addition;
mod admission;
mod boot;
mod children;
mod console_end;
mod counters;
mod create;
mod devices;
mod driver;
mod events;
mod files;
mod host;
mod image_cache;
mod info;
mod inherited;
mod link;
mod metrics;
mod orders;
mod outside;
mod plan;
mod refusal;
mod resize;
mod serial_end;
mod start;
mod told_size;
pub mod transfer;
mod vm;
mod watchdog_end;

pub use inherited::Inherited;
pub use start::run;
