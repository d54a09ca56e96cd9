#!/bin/sh
# Installs, upgrades, removes or purges a package in a root of another architecture, from outside: no program of the
# root runs.
#
#     install.sh ROOT PACKAGE.deb | --remove NAME | --purge NAME
set -eu
# dpkg runs the package's scripts from another directory.
root=$(cd "$1" && pwd)
shift
case $1 in
--*) ;;
*) set -- --install "$1" ;;
esac
# The root has its own architecture, and dpkg resolves dependencies for that one.
exec env DEBIAN_FRONTEND=noninteractive dpkg --root="$root" --force-architecture --force-script-chrootless --force-not-root \
    --force-confold "$@"
