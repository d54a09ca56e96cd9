#!/bin/sh
# Copies an unpacked Debian system without the parts that no camera has on flash: kernels, modules, desktop data.
#
#     copy.sh TREE ROOT
set -eu
mkdir -p "$2"
tar -C "$1" --exclude=./boot --exclude=./lib/modules --exclude=./usr/share/icons --exclude=./usr/share/fonts --exclude=./usr/share/sounds \
    --exclude=./usr/share/X11 --exclude=./usr/share/gtk-3.0 --exclude=./usr/share/perl --exclude=./usr/share/initramfs-tools \
    --exclude=./usr/share/iso-codes --exclude=./usr/share/zoneinfo --exclude=./usr/lib/python3 --exclude='./usr/lib/*/perl*' \
    --exclude='./usr/lib/*/libLLVM*' --exclude='./usr/lib/*/dri' -cf - . | tar -C "$2" -xf -
