//! Numbers of the ioctls that the tables name.
//!
//! Written out because this crate is below those that use KVM. They are the same on x86-64 and aarch64: both use the
//! asm-generic encoding `direction << 30 | size << 16 | type << 8 | number`.

const KVM: u32 = 0xae;

const fn none(kind: u32, number: u32) -> u32 {
    kind << 8 | number
}

const fn write(kind: u32, number: u32, size: u32) -> u32 {
    1 << 30 | size << 16 | kind << 8 | number
}

const fn read(kind: u32, number: u32, size: u32) -> u32 {
    2 << 30 | size << 16 | kind << 8 | number
}

const fn both(kind: u32, number: u32, size: u32) -> u32 {
    3 << 30 | size << 16 | kind << 8 | number
}

macro_rules! ioctls {
    ($($id:ident = $value:expr;)*) => {
        $(
            #[doc = concat!("`", stringify!($id), "`.")]
            pub const $id: u32 = $value;
        )*
    };
}

// linux/kvm.h, Linux 6.12.
ioctls! {
    KVM_GET_API_VERSION = none(KVM, 0x00);
    KVM_CREATE_VM = none(KVM, 0x01);
    KVM_CHECK_EXTENSION = none(KVM, 0x03);
    KVM_GET_VCPU_MMAP_SIZE = none(KVM, 0x04);
    KVM_CREATE_VCPU = none(KVM, 0x41);
    KVM_GET_DIRTY_LOG = write(KVM, 0x42, 16);
    KVM_SET_USER_MEMORY_REGION = write(KVM, 0x46, 32);
    KVM_IRQ_LINE = write(KVM, 0x61, 8);
    KVM_SET_GSI_ROUTING = write(KVM, 0x6a, 8);
    KVM_IRQFD = write(KVM, 0x76, 32);
    KVM_IOEVENTFD = write(KVM, 0x79, 64);
    KVM_RUN = none(KVM, 0x80);
    KVM_GET_MP_STATE = read(KVM, 0x98, 4);
    KVM_SET_MP_STATE = write(KVM, 0x99, 4);
    KVM_GET_VCPU_EVENTS = read(KVM, 0x9f, 64);
    KVM_SET_VCPU_EVENTS = write(KVM, 0xa0, 64);
    KVM_ENABLE_CAP = write(KVM, 0xa3, 104);
    KVM_GET_ONE_REG = write(KVM, 0xab, 16);
    KVM_SET_ONE_REG = write(KVM, 0xac, 16);
    KVM_ARM_VCPU_INIT = write(KVM, 0xae, 32);
    KVM_ARM_PREFERRED_TARGET = read(KVM, 0xaf, 32);
    KVM_GET_REG_LIST = both(KVM, 0xb0, 8);
    KVM_ARM_SET_COUNTER_OFFSET = write(KVM, 0xb5, 16);
    KVM_ARM_VCPU_FINALIZE = write(KVM, 0xc2, 4);
    KVM_CREATE_DEVICE = both(KVM, 0xe0, 12);
    KVM_SET_DEVICE_ATTR = write(KVM, 0xe1, 24);
    KVM_GET_DEVICE_ATTR = write(KVM, 0xe2, 24);
}

// linux/userfaultfd.h.
ioctls! {
    USERFAULTFD_IOC_NEW = none(0xaa, 0x00);
    UFFDIO_API = both(0xaa, 0x3f, 24);
    UFFDIO_REGISTER = both(0xaa, 0x00, 32);
    UFFDIO_UNREGISTER = read(0xaa, 0x01, 16);
    UFFDIO_WAKE = read(0xaa, 0x02, 16);
    UFFDIO_CONTINUE = both(0xaa, 0x07, 32);
}

// linux/if_tun.h.
ioctls! {
    TUNSETOFFLOAD = write(0x54, 0xd0, 4);
}

// asm-generic/ioctls.h.
ioctls! {
    TCGETS = 0x5401;
    TCGETS2 = 0x802c_542a;
    TCSETS2 = 0x402c_542b;
    TIOCSTI = 0x5412;
    TIOCSETD = 0x5423;
    TIOCLINUX = 0x541c;
}
