#!/bin/bash
# The first program of the Debian image (scripts/lib/setup/rootfs.sh): a shell on the console, and nothing else. The initramfs has
# mounted /dev, /proc and /sys.

export PATH=/usr/sbin:/usr/bin HOME=/root LC_ALL=C
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
busybox ifconfig lo up
cd /tmp || exit 1
# Whoever asks would else read the question in the answer.
stty -echo
echo "GRANULE debian up"
while true; do
    bash
done
