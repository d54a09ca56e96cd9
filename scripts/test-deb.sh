#!/bin/bash
# Installs, upgrades, removes and purges the package in a throw-away system. Its files must be there, an upgrade must
# keep the camera's state, a purge must remove it, and a person's changes must survive.
#
#     test-deb.sh TARGET PROGRAM
#
# A system of another architecture is changed from outside, as a firmware image is built; amd64's from inside.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$1
program=$2
. scripts/arm/names.sh

fail() {
    echo "test-deb.sh: $debian: $*" >&2
    exit 1
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
root=$scratch/root
scripts/arm/copy.sh "$(scripts/arm/camera-tree.sh "$target")" "$root"
scripts/arm/finish.sh "$root"

rm -f target/deb/kasa-care-agent_*_"$debian".deb
VERSION=0.1.0-1 scripts/deb.sh "$target" "$program"
VERSION=0.1.1-1 scripts/deb.sh "$target" "$program"
first=target/deb/kasa-care-agent_0.1.0-1_$debian.deb
second=target/deb/kasa-care-agent_0.1.1-1_$debian.deb

# Runs dpkg on the system.
package() {
    if [ "$debian" = amd64 ]; then
        case $1 in
        --*) ;;
        *)
            cp "$1" "$root/package.deb"
            set -- --install /package.deb
            ;;
        esac
        # dpkg asks for diff and ldconfig, which this small system lacks and dpkg does not need here.
        mkdir -p "$root/proc"
        unshare --fork --pid --mount-proc="$root/proc" chroot "$root" env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin dpkg --force-confold --force-bad-path "$@"
    else
        scripts/arm/install.sh "$root" "$@"
    fi >"$scratch/dpkg.log" 2>&1 || {
        cat "$scratch/dpkg.log" >&2
        fail "dpkg $* failed"
    }
}

state() {
    dpkg-query --admindir="$root/var/lib/dpkg" --show --showformat='${db:Status-Status} ${Version}' "kasa-care-agent" 2>/dev/null || echo absent
}

# The package's metadata: architecture, dependencies, licence, and the configuration as a conffile.
[ "$(dpkg-deb --field "$first" Architecture)" = "$debian" ] || fail "the package is for another architecture"
for needed in libgstreamer1.0-0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad; do
    dpkg-deb --field "$first" Depends | grep -q "$needed (>= 1.22)" || fail "the package does not depend on $needed 1.22"
done
dpkg-deb --fsys-tarfile "$first" | tar -xO ./usr/share/doc/kasa-care-agent/copyright | grep -q '^License: Apache-2.0 or Expat$' ||
    fail "the package does not carry its licence"
[ "$(dpkg-deb --info "$first" conffiles)" = /etc/kasa-care-agent/config.toml ] || fail "the configuration is no conffile"
for page in protocol.md design/time.md; do
    [ "$(dpkg-deb --contents "$first" | grep -c "/usr/share/doc/kasa-care-agent/$page$")" = 1 ] || fail "the package lacks docs/$page"
done
for file in man/man1/kasa-care-agent.1.gz man/man5/kasa-care-agent.toml.5.gz bash-completion/completions/kasa-care-agent \
    zsh/vendor-completions/_kasa-care-agent fish/vendor_completions.d/kasa-care-agent.fish kasa-care-agent/config.schema.json; do
    [ "$(dpkg-deb --contents "$first" | grep -c "/usr/share/$file$")" = 1 ] || fail "the package lacks /usr/share/$file"
done

package "$first"
[ "$(state)" = "installed 0.1.0-1" ] || fail "after installing: $(state)"
grep -q '^kasa-care-agent:' "$root/etc/passwd" || fail "there is no user kasa-care-agent"
[ -L "$root/etc/systemd/system/multi-user.target.wants/kasa-care-agent.service" ] || fail "the unit is not enabled"
[ -d "$root/var/lib/kasa-care-agent" ] || fail "a read-only image would have no place to mount the state"
[ "$(stat -c %a "$root/etc/kasa-care-agent/config.toml")" = 640 ] || fail "everybody may read the configuration"
for link in "$root"/usr/lib/kasa-care-agent/gstreamer-1.0/*.so; do
    [ -e "$link" ] || fail "$(basename "$link") leads nowhere"
done

# Make it a used camera: a state, an identity, a configuration of its own, a unit that somebody has disabled.
echo slots >"$root/var/lib/kasa-care-agent/state"
echo key >"$root/etc/kasa-care-agent/device.key"
echo '# mine' >>"$root/etc/kasa-care-agent/config.toml"
systemctl --root="$root" --quiet disable kasa-care-agent.service

package "$second"
[ "$(state)" = "installed 0.1.1-1" ] || fail "after the upgrade: $(state)"
[ "$(cat "$root/var/lib/kasa-care-agent/state")" = slots ] || fail "the upgrade touched the state"
grep -q '^# mine' "$root/etc/kasa-care-agent/config.toml" || fail "the upgrade put its own configuration over the camera's"
[ ! -L "$root/etc/systemd/system/multi-user.target.wants/kasa-care-agent.service" ] || fail "the upgrade enabled the unit again"

package --remove kasa-care-agent
[ ! -e "$root/usr/bin/kasa-care-agent" ] || fail "removing left the program"
[ -e "$root/var/lib/kasa-care-agent/state" ] || fail "removing took the state"

package --purge kasa-care-agent
[ ! -e "$root/var/lib/kasa-care-agent" ] || fail "the purge left the state"
[ ! -e "$root/etc/kasa-care-agent/config.toml" ] || fail "the purge left the configuration"
[ -e "$root/etc/kasa-care-agent/device.key" ] || fail "the purge took the identity, which is not the package's"
case $(state) in absent | "not-installed "*) ;; *) fail "after the purge: $(state)" ;; esac
echo "test-deb.sh: $debian: installed, upgraded, removed, purged"
