#!/bin/bash
# The agent as people script it: mosquitto_sub in a loop, and curl to kill. A rival for the benchmark, not for use.
#
# It verifies nothing, persists nothing and trusts every document. On a paid document it uploads without end; on a free one
# it kills curl and reports.
# Usage: sub_curl.sh BROKER_HOST BROKER_PORT STORE_URL CA CERT KEY DEVICE PREFIX CLIP_FILE
set -u
host=$1 port=$2 store=$3 ca=$4 cert=$5 key=$6 device=$7 prefix=$8 clip=$9
mqtt=(-h "$host" -p "$port" --cafile "$ca" --cert "$cert" --key "$key" -q 1)

upload=
trap '[ -n "$upload" ] && kill -9 "$upload" 2>/dev/null' EXIT

while read -r token; do
    payload=${token#*.}
    payload=${payload%.*}
    read -r plan reason epoch seq < <(tr '_-' '/+' <<<"$payload" | base64 -d 2>/dev/null | jq -r '"\(.plan) \(.reason) \(.epoch) \(.seq)"')
    transfers=0
    if [ -n "$upload" ]; then
        kill -9 "$upload" 2>/dev/null && transfers=1
        wait "$upload" 2>/dev/null
        upload=
    fi
    mode=free
    if [ "$plan" != free ]; then
        mode=paid
        curl -s -o /dev/null --cacert "$ca" --cert "$cert" --key "$key" -H Expect: -T "$clip" "$store/clips/rival/0" </dev/null &
        upload=$!
    fi
    report=$(printf '{"device":"%s","outcome":"applied","reason":"%s","cause":"document","judged":{"epoch":%s,"seq":%s},"epoch":%s,"seq":%s,"digest":null,"plan":"%s","mode":"%s","persisted":false,"keyset":0,"cut":{"transfers":%s,"micros":0,"bytes_after":0},"erased":{"clips":0,"bytes":0},"at":"%s","agent":"shell"}' \
        "$device" "$reason" "$epoch" "$seq" "$epoch" "$seq" "$plan" "$mode" "$transfers" "$(date -u +%Y-%m-%dT%H:%M:%SZ)")
    mosquitto_pub "${mqtt[@]}" -i "$device-report" -r -t "$prefix/$device/report" -m "$report" </dev/null
done < <(exec mosquitto_sub "${mqtt[@]}" -c -i "$device" -t "$prefix/$device/entitlement")
