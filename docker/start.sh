#!/usr/bin/env bash
# Starts one of the appliance's services (usage: start agent|orthanc|edge).
#
# Rule 1: a service starts only with a configuration that has no error; all errors are shown at once.
# Rule 2: edge and orthanc need the keys that the agent made at its first start, and never the running agent.
set -euo pipefail

readonly config=/etc/understudy/config
readonly keys=/var/lib/understudy-keys

fail() { printf 'start: %s\n' "$*" >&2; exit 1; }

wait_for_keys() {
    local deadline=$((SECONDS + 60))
    until [ -e "$keys/ready" ]; do
        [ "$SECONDS" -lt "$deadline" ] || fail "no keys in $keys after 60 s: start the agent once, it makes them (see its log)"
        sleep 0.2
    done
}

start_agent() {
    understudy init
    exec python -m understudy.agent
}

start_orthanc() {
    local generated=/run/orthanc/config
    wait_for_keys
    umask 077
    rm -rf "$generated"
    mkdir -p "$generated"
    cp "$config"/*.json "$generated/"
    # Whatever it finds in the storage area, Orthanc starts: intake comes first, and the agent raises the alarm. It does not
    # start without its accounts and devices.
    understudy prepare-orthanc --render "$generated/generated.json" ||
        { [ -s "$generated/generated.json" ] || fail "the configuration could not be rendered: the lines above say why"; }
    # Orthanc names the patient of an instance whose UIDs are missing. The ID may go over several lines.
    exec env LD_PRELOAD=/opt/understudy/lib/reception.so UNDERSTUDY_PARKING=/var/lib/orthanc/storage/understudy/parking \
        Orthanc "$generated" 2> >(exec sed -u -n -E -e ':top' -e '/Store has failed because required tags/{
        s/PatientID=.*/PatientID=(not logged)/
        p
        :rest
        n
        /^([EWIT][0-9]{4}|reception:) /!b rest
        b top
    }' -e p >&2)
}

start_edge() {
    wait_for_keys
    EDGE_AUTHORIZATION="Basic $(printf 'edge:%s' "$(<"$keys/service/edge")" | base64 -w 0)"
    export EDGE_AUTHORIZATION
    understudy render-edge --to /tmp/edge || fail "the edge could not be configured: the lines above say why"
    # The global section has to come before the people's accounts.
    local files=(-f /tmp/edge/haproxy.cfg -f "$keys/users.cfg")
    haproxy -c "${files[@]}" || fail "HAProxy refuses its configuration: the lines above say why"
    # -db: in the foreground, without a master process: one process, the container's first.
    exec haproxy -db "${files[@]}"
}

service=${1:-}
case $service in
agent | edge)
    understudy check-config || fail "$service does not start: mend the configuration in $config as said above"
    "start_$service"
    ;;
# It checks while it prepares: its restart after a crash waits for nothing twice.
orthanc) start_orthanc ;;
*) fail "usage: start agent|orthanc|edge" ;;
esac
