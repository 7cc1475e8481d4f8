#!/usr/bin/env bash
# Starts one of the appliance's services (usage: start agent|orthanc|edge).
#
# Rule 1: a service starts only with a configuration without errors: the one in /etc/understudy/config, or the last valid one
# that the agent kept. All errors are shown at once.
# Rule 2: edge and orthanc need the keys that the agent made at its first start, but they never need the agent to run.
set -euo pipefail

readonly keys=/var/lib/understudy-keys

fail() { printf 'start: %s\n' "$*" >&2; exit 1; }

wait_for_keys() {
    local deadline=$((SECONDS + 60))
    # At a first start with a wrong configuration the keys are never made.
    [ -e "$keys/ready" ] || understudy check-config || fail "$service does not start: fix the configuration in /etc/understudy/config as said above"
    until [ -e "$keys/ready" ]; do
        [ "$SECONDS" -lt "$deadline" ] || fail "no keys in $keys after 60 s: start the agent once, it makes them and shares them out (see its log)"
        sleep 0.2
    done
}

start_agent() {
    understudy init || fail "agent does not start: the lines above say why"
    exec python -m understudy.agent
}

start_orthanc() {
    local generated=/run/orthanc/config storage=/var/lib/orthanc/storage/understudy
    wait_for_keys
    umask 077
    rm -rf "$generated"
    mkdir -p "$generated"
    # Orthanc starts whatever is wrong in the storage area, because intake comes first; the agent raises the alarm. Orthanc
    # does not start without its accounts and devices.
    understudy prepare-orthanc --render "$generated/generated.json" ||
        { [ -s "$generated/generated.json" ] || fail "the configuration could not be rendered: the lines above say why"; }
    # Orthanc writes bodies of 100 MB and more to TMPDIR; in /tmp they would count as memory. Files that a crash left are
    # useless. SQLite's own temporary files stay in /tmp: a deletion needs them, especially when the storage is full.
    rm -rf "$storage/temporary"
    mkdir -p "$storage/temporary"
    exec env LD_PRELOAD=/opt/understudy/lib/reception.so UNDERSTUDY_PARKING="$storage/parking" \
        UNDERSTUDY_REFUSALS="$storage/refusals" UNDERSTUDY_RECEPTION="$generated/reception" \
        TMPDIR="$storage/temporary" SQLITE_TMPDIR=/tmp Orthanc "$generated" 2> >(exec log-filter)
}

start_edge() {
    wait_for_keys
    EDGE_AUTHORIZATION="Basic $(printf 'edge:%s' "$(<"$keys/service/edge")" | base64 -w 0)"
    EDGE_SIGNING=$(<"$keys/service/signing")
    export EDGE_AUTHORIZATION EDGE_SIGNING
    understudy render-edge --to /tmp/edge || fail "edge does not start: the lines above say why"
    haproxy -c -f /tmp/edge/haproxy.cfg || fail "HAProxy refuses its configuration: the lines above say why"
    # HAProxy cannot replace the socket of another user; with an older compose file the edge ran as another user.
    rm -f /run/understudy-edge/haproxy.sock
    # -db: run in the foreground without a master process, as the container's only process.
    exec haproxy -db -f /tmp/edge/haproxy.cfg
}

service=${1:-}
case $service in
agent | edge | orthanc) "start_$service" ;;
*) fail "usage: start agent|orthanc|edge" ;;
esac
