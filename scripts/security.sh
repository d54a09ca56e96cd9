#!/bin/sh
# Checks that the unit's exposure, as systemd-analyze counts it, is at most 2.0.
set -eu
cd "$(dirname "$0")/.."

# Fails unless the unit is within the limit; prints what systemd-analyze prints.
within() {
    systemd-analyze security --offline=yes --no-pager --threshold=20 "$1"
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
unit=systemd/kasa-care-agent.service
mkdir "$scratch/looser" "$scratch/unit"
cp "$unit" "$scratch/unit/"
# systemd-analyze requires that the program exists.
sed -i 's,^ExecStart=.*,ExecStart=/bin/true,' "$scratch/unit/kasa-care-agent.service"
if ! within "$scratch/unit/kasa-care-agent.service" >"$scratch/said" 2>&1; then
    cat "$scratch/said"
    echo "security.sh: $unit has an exposure above 2.0; the table shows why" >&2
    exit 1
fi
said=$(grep 'Overall exposure' "$scratch/said")

# Test the check itself on a looser unit.
grep -vE '^(CapabilityBoundingSet|SystemCallFilter|ProtectSystem)=' "$scratch/unit/kasa-care-agent.service" >"$scratch/looser/kasa-care-agent.service"
if within "$scratch/looser/kasa-care-agent.service" >/dev/null 2>&1; then
    echo "security.sh: a unit without capabilities, system calls and files withheld passes too" >&2
    exit 1
fi
echo "security.sh: $(echo "$said" | sed 's/.*exposure level for //; s/[^ -~]//g')"
