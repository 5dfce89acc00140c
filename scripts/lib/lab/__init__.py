"""The lab: an emulated Arm host with KVM and MTE, on any x86-64 or arm64 Linux machine.

places     where things are kept             cpio       the archive format of an initramfs
modules    kernel modules in loading order   initramfs  what the lab host and a first guest boot into
build      aarch64 programs, by cargo        wire       the frames exchanged with the agent in the lab
host       one emulated host, as a QEMU process
session    one command run in it             passing    what a command inherits from here
inplace    the lab on an Arm machine with KVM: no emulation at all
batch      many test binaries in one boot
cli        what a person types
"""
