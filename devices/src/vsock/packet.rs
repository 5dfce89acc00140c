//! Headers of packets (virtio 1.2, §5.10.6). What the guest sends is an allegation; [`Header::checked`] is the door.

use super::spec::{HEADER_SIZE, HOST_CID, TYPE_STREAM, WINDOW};

/// What a packet is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Operation {
    Request = 1,
    Response = 2,
    Reset = 3,
    Shutdown = 4,
    Data = 5,
    CreditUpdate = 6,
    CreditRequest = 7,
}

impl Operation {
    fn of(number: u16) -> Option<Self> {
        use Operation::{CreditRequest, CreditUpdate, Data, Request, Reset, Response, Shutdown};
        let all = [Request, Response, Reset, Shutdown, Data, CreditUpdate, CreditRequest];
        all.into_iter().find(|operation| *operation as u16 == number)
    }
}

/// The two ports of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ports {
    pub host: u32,
    pub guest: u32,
}

/// A header, either way; the direction says which port is the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub ports: Ports,
    pub operation: Operation,
    pub flags: u32,
    pub length: u32,
    /// Room that the sender has for the connection.
    pub buffer: u32,
    /// How much of what it got it is done with, modulo 2^32.
    pub forwarded: u32,
}

/// What is wrong with a header of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    /// It is not from this guest to the host; nobody is to be answered.
    Stray,
    /// Its type, operation or length makes no sense; its connection ends.
    Senseless(Ports),
}

impl Header {
    /// A packet without a payload.
    pub fn bare(ports: Ports, operation: Operation) -> Self {
        Self { ports, operation, flags: 0, length: 0, buffer: WINDOW, forwarded: 0 }
    }

    /// Reads a header of the guest with context id `cid`, behind which `payload` bytes came.
    pub fn checked(bytes: &[u8; HEADER_SIZE], cid: u64, payload: usize) -> Result<Self, BadHeader> {
        if (long(bytes, 0), long(bytes, 8)) != (cid, HOST_CID) {
            return Err(BadHeader::Stray);
        }
        let ports = Ports { guest: word(bytes, 16), host: word(bytes, 20) };
        let (length, kind) = (word(bytes, 24), half(bytes, 28));
        let operation = Operation::of(half(bytes, 30)).filter(|_| kind == TYPE_STREAM);
        let Some(operation) = operation.filter(|_| length as usize <= payload) else {
            return Err(BadHeader::Senseless(ports));
        };
        let (flags, buffer, forwarded) = (word(bytes, 32), word(bytes, 36), word(bytes, 40));
        Ok(Self { ports, operation, flags, length, buffer, forwarded })
    }

    /// The bytes of a header to the guest with context id `cid`.
    pub fn to_guest(self, cid: u64) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &HOST_CID.to_le_bytes());
        put(8, &cid.to_le_bytes());
        put(16, &self.ports.host.to_le_bytes());
        put(20, &self.ports.guest.to_le_bytes());
        put(24, &self.length.to_le_bytes());
        put(28, &TYPE_STREAM.to_le_bytes());
        put(30, &(self.operation as u16).to_le_bytes());
        put(32, &self.flags.to_le_bytes());
        put(36, &self.buffer.to_le_bytes());
        put(40, &self.forwarded.to_le_bytes());
        bytes
    }
}

fn part<const N: usize>(bytes: &[u8; HEADER_SIZE], at: usize) -> [u8; N] {
    std::array::from_fn(|index| bytes[at + index])
}

fn long(bytes: &[u8; HEADER_SIZE], at: usize) -> u64 {
    u64::from_le_bytes(part(bytes, at))
}

fn word(bytes: &[u8; HEADER_SIZE], at: usize) -> u32 {
    u32::from_le_bytes(part(bytes, at))
}

fn half(bytes: &[u8; HEADER_SIZE], at: usize) -> u16 {
    u16::from_le_bytes(part(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: u64 = 0x1234_5678;
    const PORTS: Ports = Ports { host: 0x4000_0001, guest: 1024 };

    /// A header as a guest sends it: the addresses are swapped.
    fn from_guest(header: Header) -> [u8; HEADER_SIZE] {
        let mut bytes = header.to_guest(CID);
        let (source, destination) = (part::<8>(&bytes, 8), part::<8>(&bytes, 0));
        bytes[..8].copy_from_slice(&source);
        bytes[8..16].copy_from_slice(&destination);
        let (source, destination) = (part::<4>(&bytes, 20), part::<4>(&bytes, 16));
        bytes[16..20].copy_from_slice(&source);
        bytes[20..24].copy_from_slice(&destination);
        bytes
    }

    #[test]
    fn a_header_is_laid_out_as_specified() {
        let header = Header { flags: 3, length: 5, forwarded: 7, ..Header::bare(PORTS, Operation::Data) };
        let bytes = header.to_guest(CID);
        let golden = [
            2, 0, 0, 0, 0, 0, 0, 0, 0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0, 1, 0, 0, 0x40, 0, 4, 0, 0, 5, 0, 0,
            0, 1, 0, 5, 0, 3, 0, 0, 0, 0, 0, 4, 0, 7, 0, 0, 0,
        ];
        assert_eq!(bytes, golden);
        assert_eq!(Header::checked(&from_guest(header), CID, 5), Ok(header));
    }

    #[test]
    fn allegations_are_refused() {
        let good = from_guest(Header { length: 5, ..Header::bare(PORTS, Operation::Data) });
        let senseless = Err(BadHeader::Senseless(PORTS));
        assert_eq!(Header::checked(&good, CID, 4), senseless, "longer than its chain");
        for (at, value, expected) in [
            (0, 9, Err(BadHeader::Stray)),
            (7, 1, Err(BadHeader::Stray)),
            (8, 1, Err(BadHeader::Stray)),
            (15, 1, Err(BadHeader::Stray)),
            (28, 2, senseless),
            (29, 1, senseless),
            (30, 0, senseless),
            (30, 8, senseless),
            (31, 1, senseless),
        ] {
            let mut bytes = good;
            bytes[at] = value;
            assert_eq!(Header::checked(&bytes, CID, 5), expected, "byte {at}");
        }
    }
}
