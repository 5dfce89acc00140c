//! Where a function sits and what it decodes, as types.

use std::fmt;

use serde::Serialize;

/// Bus, device and function of one PCI function, within its segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bdf(u16);

impl Bdf {
    /// The function at `bus:device.function`; `None` where there can be none (device > 31, function > 7).
    pub const fn new(bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        // `as` because From is not const; each value was checked to fit.
        Some(Self((bus as u16) << 8 | (device as u16) << 3 | function as u16))
    }

    /// Function 0 of `device` on the root bus.
    pub const fn on_root_bus(device: u8) -> Option<Self> {
        Self::new(0, device, 0)
    }

    /// The function that ECAM offset `offset` falls in (PCI Express Base 4.0, §7.2.2).
    pub const fn from_ecam_offset(offset: u64) -> Self {
        Self((offset >> 12) as u16)
    }

    /// The 16-bit requester id, which an ITS takes as (the low half of) its device id.
    pub const fn requester_id(self) -> u16 {
        self.0
    }

    /// The bus number.
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// The device number, 0 to 31.
    pub const fn device(self) -> u8 {
        (self.0 >> 3) as u8 & 0x1f
    }

    /// The function number, 0 to 7.
    pub const fn function(self) -> u8 {
        self.0 as u8 & 7
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{:x}", self.bus(), self.device(), self.function())
    }
}

impl fmt::Debug for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The number of a base address register, 0 to 5; a 64-bit BAR goes by its lower one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct BarIndex(u8);

impl BarIndex {
    /// BAR 0.
    pub const ZERO: Self = Self(0);

    /// BAR `index`; `None` above 5.
    pub const fn new(index: u8) -> Option<Self> {
        if index < 6 { Some(Self(index)) } else { None }
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The offset of its (lower) register in configuration space.
    pub const fn register(self) -> usize {
        super::spec::BAR0 + self.0 as usize * 4
    }
}

/// A range of guest-physical addresses, which does not wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AddressRange {
    base: u64,
    size: u64,
}

impl AddressRange {
    /// `size` bytes from `base`; `None` if that is empty or ends above 2⁶⁴ - 1.
    pub const fn new(base: u64, size: u64) -> Option<Self> {
        if size == 0 || base.checked_add(size - 1).is_none() {
            return None;
        }
        Some(Self { base, size })
    }

    /// The first address.
    pub const fn base(self) -> u64 {
        self.base
    }

    /// How many bytes.
    pub const fn size(self) -> u64 {
        self.size
    }

    /// The last address.
    pub const fn last(self) -> u64 {
        self.base + (self.size - 1)
    }

    /// Whether all of `other` lies within.
    pub const fn contains(self, other: Self) -> bool {
        self.base <= other.base && other.last() <= self.last()
    }

    /// Whether any address is in both.
    pub const fn overlaps(self, other: Self) -> bool {
        self.base <= other.last() && other.base <= self.last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bdf_prints_as_linux_prints_it() {
        let bdf = Bdf::new(0x0a, 31, 7).unwrap();
        assert_eq!(bdf.to_string(), "0a:1f.7");
        assert_eq!(bdf.requester_id(), 0x0aff);
        assert_eq!((bdf.bus(), bdf.device(), bdf.function()), (10, 31, 7));
    }

    #[test]
    fn a_bdf_out_of_range_is_none() {
        assert_eq!(Bdf::new(0, 32, 0), None);
        assert_eq!(Bdf::new(0, 0, 8), None);
        assert_eq!(BarIndex::new(6), None);
    }

    #[test]
    fn an_ecam_offset_names_its_function() {
        assert_eq!(Bdf::from_ecam_offset(0x0010_a004), Bdf::new(1, 1, 2).unwrap());
    }

    #[test]
    fn ranges_may_end_at_the_top_but_not_wrap() {
        assert!(AddressRange::new(u64::MAX, 1).is_some());
        assert_eq!(AddressRange::new(u64::MAX, 2), None);
        assert_eq!(AddressRange::new(4, 0), None);
    }

    #[test]
    fn neighbours_do_not_overlap() {
        let low = AddressRange::new(0x1000, 0x1000).unwrap();
        let high = AddressRange::new(0x2000, 0x1000).unwrap();
        assert!(!low.overlaps(high));
        assert!(low.overlaps(AddressRange::new(0x1fff, 2).unwrap()));
        assert!(low.contains(AddressRange::new(0x1fff, 1).unwrap()));
        assert!(!low.contains(AddressRange::new(0x1fff, 2).unwrap()));
    }
}
