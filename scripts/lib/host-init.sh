#!/bin/busybox sh
# shellcheck shell=dash
# PID 1 of the lab host. Makes an ordinary Linux host of the initramfs, then lets the agent run the command.
# Stays PID 1 for as long as the host lives, so orphans are reaped here.

PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

if [ "$1" != host ]; then
    # The initramfs itself cannot be pivoted away from, as a jail may want to: move into a tmpfs.
    busybox mount -t tmpfs -o mode=755,size=75% root /run
    cd /
    busybox cp -a bin dev etc init lab lib proc root sbin sys tmp usr var run/
    exec busybox switch_root run /init host
fi

busybox mount -t proc -o nosuid,nodev,noexec proc /proc
busybox --install -s
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t devtmpfs -o mode=755 devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,gid=5,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev shm /dev/shm
mount -t tmpfs -o mode=1777,nosuid,nodev tmp /tmp
mkdir -p /run
mount -t tmpfs -o mode=755,nosuid,nodev run /run
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr

read -r modules </lab/modules
# shellcheck disable=SC2086 # a list of names
[ -z "$modules" ] || modprobe -a $modules

# The first use of one of these has the kernel run /sbin/modprobe.
mkdir -p /dev/net
mknod -m 0666 /dev/net/tun c 10 200
mknod -m 0660 /dev/vhost-net c 10 238
mknod -m 0660 /dev/vhost-vsock c 10 241
mknod -m 0660 /dev/loop-control c 10 237
chmod 0660 /dev/kvm
chown root:kvm /dev/kvm /dev/vhost-net /dev/vhost-vsock
ip link set lo up
hostname lab

while read -r tag mode path; do
    mkdir -p "$path"
    # What the lab cannot write, as kernels and busybox, may be read once and kept.
    [ "$mode" = ro ] && cache=loose || cache=mmap
    mount -t 9p -o "$mode,trans=virtio,version=9p2000.L,msize=512000,access=any,cache=$cache" "$tag" "$path" ||
        echo "lab: cannot mount $path"
done </lab/shares

if grep -q lab.shell /proc/cmdline; then
    # shellcheck disable=SC1091 # passing.py writes it
    . /lab/shell
else
    for name in /sys/class/virtio-ports/*/name; do
        [ "$(cat "$name")" = lab ] && port=/dev/$(basename "$(dirname "$name")")
    done
    /lab/agent "$port"
fi
poweroff -f
