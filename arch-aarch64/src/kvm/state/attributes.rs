//! Attributes of KVM's devices: numbers that are read and written through a pointer. The only unsafe module here.

use std::collections::BTreeMap;

use kvm_bindings::kvm_device_attr;
use kvm_ioctls::{DeviceFd, Error};

/// A number that an attribute can be.
pub(super) trait Number: Copy + Default {}

impl Number for u32 {}
impl Number for u64 {}

/// Reads an attribute of this width. The caller knows the width by the group (devices/arm-vgic-v3.rst).
pub(super) fn read<T: Number>(device: &DeviceFd, group: u32, attr: u64) -> Result<T, Error> {
    let mut value = T::default();
    let mut attribute =
        kvm_device_attr { group, attr, addr: std::ptr::from_mut(&mut value) as u64, flags: 0 };
    // SAFETY: the kernel writes one number of this group's width, which is `T`, to `value`, which outlives the call.
    unsafe { device.get_device_attr(&mut attribute) }?;
    Ok(value)
}

/// Reads the attributes `who | register` of these registers.
pub(super) fn read_all<T: Number>(
    device: &DeviceFd,
    group: u32,
    who: u64,
    registers: impl IntoIterator<Item = u32>,
) -> Result<BTreeMap<u32, T>, Error> {
    let one = |register: u32| Ok((register, read(device, group, who | u64::from(register))?));
    registers.into_iter().map(one).collect()
}

/// Writes an attribute.
pub(super) fn write<T: Number>(device: &DeviceFd, group: u32, attr: u64, value: T) -> Result<(), Error> {
    let addr = std::ptr::from_ref(&value) as u64;
    device.set_device_attr(&kvm_device_attr { group, attr, addr, flags: 0 })
}

/// Gives an order that has no operand.
pub(super) fn order(device: &DeviceFd, group: u32, attr: u32) -> Result<(), Error> {
    device.set_device_attr(&kvm_device_attr { group, attr: u64::from(attr), addr: 0, flags: 0 })
}
