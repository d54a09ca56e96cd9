#!/bin/sh
# The unit's exposure, as systemd-analyze counts it, is at most 2.0; and the check notices a unit that is looser.
set -eu
cd "$(dirname "$0")/.."

# Fails unless the unit is within the limit; says what systemd-analyze says.
within() {
    systemd-analyze security --offline=yes --no-pager --threshold=20 "$1"
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
unit=systemd/kasa-care-agent.service
mkdir "$scratch/looser" "$scratch/unit"
cp "$unit" "$scratch/unit/"
# systemd-analyze wants the program to be there.
sed -i 's,^ExecStart=.*,ExecStart=/bin/true,' "$scratch/unit/kasa-care-agent.service"
if ! within "$scratch/unit/kasa-care-agent.service" >"$scratch/said" 2>&1; then
    cat "$scratch/said"
    echo "security.sh: $unit is more exposed than 2.0; the table says by what" >&2
    exit 1
fi
said=$(grep 'Overall exposure' "$scratch/said")

# The check of the check.
grep -vE '^(CapabilityBoundingSet|SystemCallFilter|ProtectSystem)=' "$scratch/unit/kasa-care-agent.service" >"$scratch/looser/kasa-care-agent.service"
if within "$scratch/looser/kasa-care-agent.service" >/dev/null 2>&1; then
    echo "security.sh: a unit without capabilities, system calls and files withheld passes too" >&2
    exit 1
fi
echo "security.sh: $(echo "$said" | sed 's/.*exposure level for //; s/[^ -~]//g')"
