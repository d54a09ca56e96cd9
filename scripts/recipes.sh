#!/bin/bash
# Checks the recipes for firmware images, deploy/buildroot and deploy/openwrt, against the tarball of firmware.sh:
#
#     recipes.sh FIRMWARE.tar.xz
#
# Neither Buildroot nor OpenWrt is in Debian, so neither runs here. GNU make reads the recipes with stand-ins of a few
# lines for their infrastructure, carries the install steps out, and every file of the tarball must arrive where it
# belongs, with its content and mode. Linux's own kconfig reads Config.in.
set -euo pipefail
cd "$(dirname "$0")/.."
firmware=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "recipes.sh: $1" >&2
    exit 1
}

mkdir "$work/build"
tar -C "$work/build" --strip-components=1 -xJf "$firmware"

# Each file below a directory with its mode and checksum.
list() {
    (cd "$1" && find . -type f -printf '%m %P ' -exec sh -c 'sha256sum <"$1"' sh {} \; | LC_ALL=C sort)
}

# What should be in an image: files of the tarball under the names that a system gives them.
list "$work/build/rootfs" >"$work/packed"

cat >"$work/buildroot.mk" <<'MAKE'
qstrip = $(strip $(subst ",,$(1)))
INSTALL = install
BR2_PACKAGE_KASA_CARE_AGENT_DIRECTORY = "/firmware"
define generic-package
$(BUILD)/.stamp_installed:
	$$(KASA_CARE_AGENT_BUILD_CMDS)
	$$(KASA_CARE_AGENT_INSTALL_TARGET_CMDS)
	$$(KASA_CARE_AGENT_INSTALL_INIT_SYSV)
source:
	@echo $$(KASA_CARE_AGENT_SITE)/$$(KASA_CARE_AGENT_SOURCE)
endef
include $(BR2_EXTERNAL_KASA_CARE_PATH)/external.mk
MAKE
buildroot() {
    make -s -f "$work/buildroot.mk" BR2_EXTERNAL_KASA_CARE_PATH="${recipe:-$PWD/deploy/buildroot}" BUILD="$work/build" \
        TARGET_DIR="$work/buildroot" "$@"
}

# Installs by Buildroot's recipe and prints how the image differs from the tarball.
differs() {
    rm -rf "$work/buildroot"
    buildroot "$work/build/.stamp_installed" BR2_ARM_CPU_ARMV7A=y "$@" >&2
    list "$work/buildroot" | diff "$work/packed" - || true
}

for pair in BR2_ARM_CPU_ARMV7A:armv7-unknown-linux-musleabihf BR2_ARM_CPU_ARMV5:armv5te-unknown-linux-musleabi \
    BR2_aarch64:aarch64-unknown-linux-musl BR2_mipsel:mipsel-unknown-linux-musl; do
    (target=${pair#*:} && . scripts/arm/names.sh)
    version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
    source=$(buildroot source "${pair%%:*}=y")
    [ "$source" = "/firmware/kasa-care-agent-$version-${pair#*:}.tar.xz" ] || fail "Buildroot would take $source for ${pair%%:*}"
done
[ -z "$(differs)" ] || fail "Buildroot's recipe installs something else: $(differs)"
# With the profile for 32 MB only the configuration is another.
small=$(differs BR2_PACKAGE_KASA_CARE_AGENT_32MB=y | grep -c '^>' || true)
[ "$small" = 1 ] || fail "with the profile for 32 MB $small files differ"
cmp -s "$work/buildroot/etc/kasa-care-agent/config.toml" deploy/config-32mb.toml || fail "the profile for 32 MB is not installed"

# The same checks notice a recipe that forgets a file.
cp -r deploy/buildroot "$work/forgetful"
sed -i '/config-32mb.toml/d' "$work/forgetful/package/kasa-care-agent/kasa-care-agent.mk"
[ -n "$(recipe=$work/forgetful differs)" ] || fail "a recipe that forgets a file is not noticed"

# kconfig: the symbols of Buildroot that Config.in uses, then the external tree.
cat >"$work/Config" <<'KCONFIG'
config BR2_EXTERNAL_KASA_CARE_PATH
	string
	option env="BR2_EXTERNAL_KASA_CARE_PATH"
config BR2_ARM_CPU_ARMV7A
	bool
	default y
config BR2_ARM_CPU_ARMV5
	bool
config BR2_aarch64
	bool
config BR2_mipsel
	bool
source "$BR2_EXTERNAL_KASA_CARE_PATH/Config.in"
KCONFIG
kconfig() {
    printf '%s\n' BR2_PACKAGE_KASA_CARE_AGENT=y 'BR2_PACKAGE_KASA_CARE_AGENT_DIRECTORY="/firmware"' >"$work/.config"
    (cd "$work" && CONFIG_= BR2_EXTERNAL_KASA_CARE_PATH=$1 kconfig-conf --olddefconfig Config >kconfig.log 2>&1)
}
kconfig "$PWD/deploy/buildroot" || fail "kconfig cannot read deploy/buildroot/Config.in: $(cat "$work/kconfig.log")"
for line in BR2_PACKAGE_KASA_CARE_AGENT=y 'BR2_PACKAGE_KASA_CARE_AGENT_DIRECTORY="/firmware"' BR2_PACKAGE_KASA_CARE_AGENT_32MB=y; do
    grep -q -x -F "$line" "$work/.config" || fail "kconfig does not take $line: $(cat "$work/.config")"
done
sed -i 's/^endif//' "$work/forgetful/package/kasa-care-agent/Config.in"
if kconfig "$work/forgetful"; then
    fail "a broken Config.in is not noticed"
fi

# OpenWrt. Its init script comes from the recipe, and calls the tarball's.
openwrt=deploy/openwrt/kasa-care-agent
mkdir "$work/top" "$work/openwrt"
cat >"$work/top/rules.mk" <<'MAKE'
INCLUDE_DIR := $(TOPDIR)
INSTALL_DIR := install -d -m0755
INSTALL_BIN := install -m0755
INSTALL_CONF := install -m0640
MAKE
cat >"$work/top/package.mk" <<'MAKE'
define BuildPackage
compile:
	$$(Build/Compile)
install: compile
	$$(call Package/$(1)/install,$(DEST))
source:
	@echo $$(PKG_SOURCE)
endef
MAKE
openwrt() {
    make -s -C "$openwrt" TOPDIR="$work/top" BUILD_DIR=/nowhere PKG_BUILD_DIR="$work/build" DEST="$work/openwrt" "$@"
}
source=$(openwrt source ARCH=arm CPU_TYPE=cortex-a7)
[ "$source" = "$(basename "$firmware")" ] || fail "OpenWrt would take $source"
openwrt install ARCH=arm CPU_TYPE=cortex-a7 >/dev/null
cmp -s "$openwrt/files/kasa-care-agent.init" "$work/openwrt/etc/init.d/kasa-care-agent" || fail "OpenWrt's init script is not installed"
rm "$work/openwrt/etc/init.d/kasa-care-agent"
list "$work/openwrt" | sed 's,usr/libexec/kasa-care-agent/S95,etc/init.d/S95,' | LC_ALL=C sort >"$work/installed"
diff "$work/packed" "$work/installed" >&2 || fail "OpenWrt's recipe installs something else"
sh -n "$openwrt/files/kasa-care-agent.init"
echo "recipes.sh: Buildroot's and OpenWrt's recipes install the $(wc -l <"$work/packed") files of $(basename "$firmware")"
