//! Saving and restoring what KVM holds of a machine.
//!
//! ```text
//!   save     vCPUs stand still ─► LPI pending tables, ITS tables (into guest memory) ─► GIC ─► ITS ─► each vCPU
//!                                 ▲ before the last look at guest memory
//!   restore  VM ─► memory slots ─► vCPUs with their vector lengths ─► GIC, ITS, PMU made ─► counter ─► each vCPU
//!            ─► guest memory is there ─► GIC ─► ITS registers, tables (out of guest memory), control ─► power, events
//! ```
//!
//! The kernel's documents (arm-vgic-v3.rst, arm-vgic-its.rst, vcpu.rst) prescribe most of this order.

mod attributes;
mod counter;
mod gic;
mod its;
mod vcpu;

pub(super) use vcpu::Restoring;
