#!/usr/bin/env bash
# Runs a one-node Ceph with its S3 gateway; the first start makes the bucket `vault` and the users who may use it.
#
# Users: `writer` may put and list, `reader` may get and list. Nobody may delete: the key of the bucket's owner is removed
# once the bucket exists. writer.json goes to /run/secrets/s3, which the appliance mounts. reader.json stays in /var/lib/s3,
# for a restore.
# shellcheck disable=SC2329  # wait_for calls functions by name
set -euo pipefail
umask 027

readonly state=/var/lib/s3 secrets=/run/secrets/s3 endpoint=http://127.0.0.1:7480
export CEPH_CONF=$state/ceph.conf

say() { printf 's3: %s\n' "$*"; }

stop() {
    trap - TERM INT
    # The gateway has no data of its own, and its stop takes longer than Docker waits. Store and monitor stop normally.
    [ -z "${gateway:-}" ] || kill -KILL "$gateway" 2>/dev/null || true
    [ -z "${store:-}" ] || { kill -TERM "$store" 2>/dev/null && wait "$store"; } || true
    [ -z "${monitor:-}" ] || { kill -TERM "$monitor" 2>/dev/null && wait "$monitor"; } || true
}

# Usage: wait_for SECONDS WHAT COMMAND...
wait_for() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS >= deadline)); then
            say "$what did not answer in time"
            return 1
        fi
        sleep 0.2
    done
}

random() { od --address-radix=n --format=x1 --read-bytes="$1" /dev/urandom | tr --delete ' \n'; }

# Usage: make_user NAME FILE; leaves {"access_key", "secret_key"} in FILE.
make_user() {
    local name=$1 file=$2 access_key secret_key
    access_key=$(random 10)
    secret_key=$(random 20)
    # Negative: the user may not make a bucket.
    local -i max_buckets=-1
    [ "$name" != owner ] || max_buckets=1
    radosgw-admin user create --uid="$name" --display-name="$name" --max-buckets="$max_buckets" \
        --access-key="$access_key" --secret-key="$secret_key" >/dev/null
    printf '{"access_key": "%s", "secret_key": "%s"}\n' "$access_key" "$secret_key" > "$file"
    chmod 0600 "$file"
}

# Usage: as_owner CURL_ARGUMENT...; passes the keys on standard input, so that no process list shows them.
as_owner() {
    local keys
    keys=$(sed 's/.*"access_key": "\([^"]*\)", "secret_key": "\([^"]*\)".*/\1:\2/' "$state/owner.json")
    curl --silent --show-error --fail-with-body --aws-sigv4 aws:amz:us-east-1:s3 --config - "$@" <<< "user = \"$keys\""
}

make_cluster() {
    # Without the marker no key was ever handed out, so the remains of an interrupted first start contain nothing of value.
    find "$state" -mindepth 1 -delete
    local fsid
    fsid=$(uuidgen)
    sed "s/@FSID@/$fsid/" /etc/s3/ceph.conf > "$CEPH_CONF"
    mkdir "$state/mon" "$state/osd" "$state/rgw"
    monmaptool --create --clobber --fsid "$fsid" --add a 127.0.0.1 /tmp/monmap >/dev/null
    ceph-mon --mkfs -i a --monmap /tmp/monmap
}

make_store() {
    local store_uuid
    store_uuid=$(uuidgen)
    # Repeated, because a monitor that answers already may refuse commands until its first election has ended.
    wait_for 60 "the monitor" has_place "$store_uuid"
    ceph-osd -i 0 --mkfs --osd-uuid "$store_uuid" --osd-objectstore bluestore
}

# Usage: has_place UUID; the first store gets number 0. A repeated call for the same store changes nothing.
has_place() { [ "$(ceph --connect-timeout 5 osd new "$1")" = 0 ]; }

is_up() { ceph --connect-timeout 5 osd stat | grep --quiet ' 1 up'; }

# Sometimes the monitor answers a store's first command with "wrong fsid", and the store exits: then it is started again.
start_store() {
    local attempt
    for attempt in 1 2 3 4 5; do
        ceph-osd -i 0 -f &
        store=$!
        if wait_for 30 "the store" is_up_or_ended && kill -0 "$store" 2>/dev/null; then return 0; fi
        kill -KILL "$store" 2>/dev/null || true
        wait "$store" 2>/dev/null || true
        say "the store ended at start, attempt $attempt of 5"
    done
    return 1
}

is_up_or_ended() { ! kill -0 "$store" 2>/dev/null || is_up; }

make_vault() {
    local access_key
    make_user owner "$state/owner.json"
    make_user writer "$state/writer.json"
    make_user reader "$state/reader.json"
    wait_for 90 "the gateway" curl --silent --fail "$endpoint"
    as_owner --request PUT --header 'x-amz-bucket-object-lock-enabled: true' "$endpoint/vault"
    # The content type has to be set: by default curl declares a form, whose signature the gateway refuses.
    as_owner --request PUT --header 'content-type: application/json' --data-binary @/etc/s3/policy.json "$endpoint/vault?policy"
    # Otherwise the writer could make an object public by an ACL in the same request.
    as_owner --request PUT --header 'content-type: application/xml' --data-binary @/etc/s3/public-access-block.xml \
        "$endpoint/vault?publicAccessBlock"
    access_key=$(sed 's/.*"access_key": "\([^"]*\)".*/\1/' "$state/owner.json")
    radosgw-admin key rm --uid=owner --key-type=s3 --access-key="$access_key" >/dev/null
    rm "$state/owner.json"
}

trap 'stop; exit 0' TERM INT
first=no
[ -e "$state/made" ] || first=yes

if [ "$first" = yes ]; then
    say "first start: makes the cluster, the bucket and its users"
    make_cluster
fi
ceph-mon -i a -f &
monitor=$!
wait_for 60 "the monitor" ceph --connect-timeout 5 mon stat
if [ "$first" = yes ]; then make_store; fi
start_store
if [ "$first" = yes ]; then
    wait_for 30 "the store" ceph osd crush add osd.0 1.0 root=default host=s3
fi
radosgw -n client.rgw -f &
gateway=$!
if [ "$first" = yes ]; then
    make_vault
    sync "$state"/*.json
    touch "$state/made"
fi
# At every start, because the volume with the credential may be a new one.
install -m 0640 "$state/writer.json" "$secrets/.writer.json" && mv "$secrets/.writer.json" "$secrets/writer.json"
wait_for 60 "the gateway" curl --silent --fail "$endpoint"
touch /tmp/ready
say "ready: bucket vault at port 7480"

# If one of the three processes ends, all end, and the restart policy starts them together.
wait -n || true
say "a Ceph process ended by itself"
stop
exit 1
