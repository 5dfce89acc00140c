#!/bin/busybox sh
# shellcheck shell=dash
# /init of the default guest: says that it is up and what its CPU can do, does what the kernel command line asks, powers off.
#   granule.cmd=COMMAND   a shell command, with + for each space; at its end "GRANULE-GUEST-EXIT status" is printed
#   granule.shell         an interactive shell on the console
# Without either it powers off at once.

PATH=/usr/local/bin:/usr/bin:/sbin:/bin
export PATH
busybox mount -t proc -o nosuid,nodev,noexec proc /proc
busybox --install -s
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
ip link set lo up

# A device's name is what its driver is found by. The PCI transport itself comes first: its devices only then have names.
for bus in pci virtio; do
    for device in "/sys/bus/$bus/devices/"*/modalias; do
        [ ! -e "$device" ] || modprobe -q "$(cat "$device")"
    done
done

echo "GRANULE-GUEST-UP $(uname -r) cpus=$(grep -c ^processor /proc/cpuinfo)"
grep -m 1 ^Features /proc/cpuinfo

read -r line </proc/cmdline
for word in $line; do
    case $word in
    granule.cmd=*)
        sh -c "$(echo "${word#granule.cmd=}" | tr + ' ')"
        echo "GRANULE-GUEST-EXIT $?"
        ;;
    granule.shell)
        setsid cttyhack sh
        ;;
    esac
done
sync
poweroff -f
