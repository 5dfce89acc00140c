//! Taps of the host: opened, made and set up by whoever has the right to.
//!
//! ```text
//!  /dev/net/tun ── TUNSETIFF name ──► a queue of the tap, made if there is none of this name
//!                                      └─ header of 12 bytes, offloads as the kernel has them
//! ```
//! A tap that was there keeps its address and goes on after us; one that is made here gets one, is switched on, and goes
//! with its last descriptor.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use granule_devices::net::{HEADER_SIZE, TUN_F_CSUM, TUN_F_TSO_ECN, TUN_F_TSO4, TUN_F_TSO6, TUN_F_UFO};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

// linux/if_tun.h.
const TUNSETIFF: u32 = 0x4004_54ca;
const TUNSETOFFLOAD: u32 = 0x4004_54d0;
const TUNGETIFF: u32 = 0x8004_54d2;
const TUNSETVNETHDRSZ: u32 = 0x4004_54d8;
const IFF_TAP: u16 = 0x0002;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

/// What a tap is to be.
#[derive(Debug, Clone, Default)]
pub struct Wanted<'a> {
    /// Its name; the kernel finds one where none is given.
    pub name: Option<&'a str>,
    /// Queues of it.
    pub queues: u16,
    /// Address and mask, if it is made here.
    pub address: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Its Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// Largest packet.
    pub mtu: Option<u16>,
}

/// A tap that is open.
#[derive(Debug)]
pub struct Tap {
    /// As many queues as were wanted.
    pub queues: Vec<OwnedFd>,
    /// Its name.
    pub name: String,
    /// What it takes: bits of `TUNSETOFFLOAD`.
    pub offloads: u32,
}

/// Why there is no such tap; the key is that of the configuration which is at fault.
#[derive(Debug, thiserror::Error)]
#[error("{key}: cannot {what}")]
pub struct TapError {
    /// The key.
    pub key: &'static str,
    what: &'static str,
    #[source]
    source: io::Error,
}

/// Opens a tap, or makes it.
pub fn open(wanted: &Wanted<'_>) -> Result<Tap, TapError> {
    let failed = |key, what| move |source| TapError { key, what, source };
    let existed = wanted.name.is_some_and(|name| Path::new("/sys/class/net").join(name).exists());
    let mut name = wanted.name.unwrap_or("vmtap%d").to_owned();
    let mut queues = Vec::new();
    for _ in 0..wanted.queues {
        let file = device().map_err(failed("tap", "open /dev/net/tun"))?;
        name = attach(&file, &name, wanted.queues > 1).map_err(failed(
            "tap",
            "attach to the tap: it is in use, of another kind, or not ours to make",
        ))?;
        let header = HEADER_SIZE as libc::c_int;
        pointer(file.as_fd(), TUNSETVNETHDRSZ, &header).map_err(failed("tap", "set the tap's header"))?;
        queues.push(OwnedFd::from(file));
    }
    let offloads = queues.first().map_or(0, |queue| offloads(queue.as_fd()));
    let link = Link::new(&name).map_err(failed("tap", "reach the tap's settings"))?;
    if let Some(mac) = wanted.mac {
        link.set_mac(mac).map_err(failed("host_mac", "set the tap's address"))?;
    }
    if let Some(mtu) = wanted.mtu {
        link.set_mtu(mtu).map_err(failed("mtu", "set the tap's MTU"))?;
    }
    if !existed {
        if let Some((ip, mask)) = wanted.address {
            link.set_address(libc::SIOCSIFADDR as u32, ip)
                .map_err(failed("ip", "set the tap's IP address"))?;
            link.set_address(libc::SIOCSIFNETMASK as u32, mask)
                .map_err(failed("mask", "set the tap's mask"))?;
        }
        link.switch_on().map_err(failed("tap", "switch the tap on"))?;
    }
    Ok(Tap { queues, name, offloads })
}

/// Takes queues of a tap or macvtap that somebody else has opened and set up; what was passed stays open beside it.
pub fn adopt(passed: &[OwnedFd]) -> Result<Tap, TapError> {
    let failed = |what| move |source| TapError { key: "fds", what, source };
    let mut tap = Tap { queues: Vec::new(), name: String::new(), offloads: 0 };
    for queue in passed {
        tap.name = name_of(queue.as_fd()).map_err(failed(
            "use what was passed: no tap or macvtap that was made with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR",
        ))?;
        let header = HEADER_SIZE as libc::c_int;
        pointer(queue.as_fd(), TUNSETVNETHDRSZ, &header).map_err(failed("set the tap's header"))?;
        let flags = rustix::fs::fcntl_getfl(queue).map(|flags| flags | rustix::fs::OFlags::NONBLOCK);
        let set = flags.and_then(|flags| rustix::fs::fcntl_setfl(queue, flags));
        set.map_err(|errno| failed("keep the tap from blocking")(errno.into()))?;
        tap.queues.push(queue.try_clone().map_err(failed("duplicate the tap's descriptor"))?);
    }
    let first = tap.queues.first().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
    tap.offloads =
        first.map(|queue| offloads(queue.as_fd())).map_err(failed("find a descriptor that came along"))?;
    Ok(tap)
}

/// The name of the interface behind a queue, where its packets are as we want them.
fn name_of(queue: BorrowedFd<'_>) -> io::Result<String> {
    let mut answer = request("")?;
    pointer_mut(queue, TUNGETIFF, &mut answer)?;
    // SAFETY: the request that has just succeeded fills in the flags.
    let flags = unsafe { answer.ifr_ifru.ifru_flags }.cast_unsigned();
    let wanted = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if flags & wanted != wanted {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(String::from_utf8_lossy(&name_in(&answer)).into_owned())
}

/// The name that the kernel has filled in.
fn name_in(answer: &libc::ifreq) -> Vec<u8> {
    // C's char is signed on one architecture and not on the other.
    answer.ifr_name.iter().flat_map(|byte| byte.to_ne_bytes()).take_while(|byte| *byte != 0).collect()
}

fn device() -> io::Result<File> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/net/tun")
}

/// Becomes a queue of the tap of this name; answers the name, which the kernel may have completed.
fn attach(file: &File, name: &str, several: bool) -> io::Result<String> {
    let mut request = request(name)?;
    let several = if several { IFF_MULTI_QUEUE } else { 0 };
    request.ifr_ifru.ifru_flags = (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | several).cast_signed();
    pointer_mut(file.as_fd(), TUNSETIFF, &mut request)?;
    String::from_utf8(name_in(&request)).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Which offloads the kernel's taps have; none are switched on yet.
fn offloads(tap: BorrowedFd<'_>) -> u32 {
    let all = [TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN, TUN_F_UFO];
    let accepted = |bits: u32| number(tap, TUNSETOFFLOAD, bits).is_ok();
    let mut has = 0;
    for bit in all {
        // Segmentation comes with checksums only, and ECN with segmentation.
        if accepted(has | bit) {
            has |= bit;
        }
    }
    let _ = accepted(0);
    has
}

/// The settings of an interface, by name.
struct Link {
    socket: OwnedFd,
    name: String,
}

impl Link {
    fn new(name: &str) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket, name: name.to_owned() })
    }

    fn set(&self, number: u32, fill: impl FnOnce(&mut libc::ifreq)) -> io::Result<()> {
        let mut request = request(&self.name)?;
        fill(&mut request);
        pointer_mut(self.socket.as_fd(), number, &mut request)
    }

    fn set_mac(&self, mac: [u8; 6]) -> io::Result<()> {
        self.set(libc::SIOCSIFHWADDR as u32, |request| {
            let mut address = zeroed_address(libc::ARPHRD_ETHER);
            for (to, from) in address.sa_data.iter_mut().zip(mac) {
                *to = from as libc::c_char;
            }
            request.ifr_ifru.ifru_hwaddr = address;
        })
    }

    fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        self.set(libc::SIOCSIFMTU as u32, |request| request.ifr_ifru.ifru_mtu = mtu.into())
    }

    /// An IPv4 address or mask: behind a port, in the order of the network.
    fn set_address(&self, number: u32, address: Ipv4Addr) -> io::Result<()> {
        self.set(number, |request| {
            let mut place = zeroed_address(libc::AF_INET as u16);
            for (to, from) in place.sa_data[2..].iter_mut().zip(address.octets()) {
                *to = from as libc::c_char;
            }
            request.ifr_ifru.ifru_addr = place;
        })
    }

    fn switch_on(&self) -> io::Result<()> {
        let mut request = request(&self.name)?;
        pointer_mut(self.socket.as_fd(), libc::SIOCGIFFLAGS as u32, &mut request)?;
        // SAFETY: the request that has just succeeded fills in the flags.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
        pointer_mut(self.socket.as_fd(), libc::SIOCSIFFLAGS as u32, &mut request)
    }
}

fn zeroed_address(family: u16) -> libc::sockaddr {
    libc::sockaddr { sa_family: family, sa_data: [0; 14] }
}

/// A request about the interface of this name.
fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: plain numbers and a union of plain numbers and pointers that nobody follows, for all of which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte ends the name.
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn pointer_mut(fd: BorrowedFd<'_>, number: u32, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: every request that this module makes with such a structure reads and writes one ifreq, which this is.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), libc::Ioctl::from(number), std::ptr::from_mut(request)) })
}

fn pointer(fd: BorrowedFd<'_>, number: u32, value: &libc::c_int) -> io::Result<()> {
    // SAFETY: the one request made by this reads an int.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), libc::Ioctl::from(number), std::ptr::from_ref(value)) })
}

fn number(fd: BorrowedFd<'_>, number: u32, value: u32) -> io::Result<()> {
    // SAFETY: the one request made by this takes a number.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), libc::Ioctl::from(number), libc::c_ulong::from(value)) })
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
