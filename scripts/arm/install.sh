#!/bin/sh
# Installs, upgrades, removes or purges a package in a root of another architecture, from outside: nothing of the root runs.
#
#     install.sh ROOT PACKAGE.deb | --remove NAME | --purge NAME
set -eu
# dpkg runs the package's scripts from elsewhere.
root=$(cd "$1" && pwd)
shift
case $1 in
--*) ;;
*) set -- --install "$1" ;;
esac
# The root's own architecture, so that dpkg looks for dependencies of that one.
exec env DEBIAN_FRONTEND=noninteractive dpkg --root="$root" --force-architecture --force-script-chrootless --force-not-root \
    --force-confold "$@"
