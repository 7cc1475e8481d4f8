#!/usr/bin/env bash
# Succeeds if the gateway is set up and answers from its store.
set -euo pipefail
[ -e /tmp/ready ]
# An unsigned listing is refused with 403, which only a gateway that read the bucket from its store can answer.
[ "$(curl --silent --max-time 4 --output /dev/null --write-out '%{http_code}' http://127.0.0.1:7480/vault)" = 403 ]
