#!/bin/sh
# A shell script that reports itself with curl alone: a run per day, its start and how it ended.
# `|| :` and `-m 2`: monitoring that is away costs two seconds at most, and never the backup.
set -u
run="rid=$(date +%F)"
ping() { curl -fsS -m 2 -o /dev/null "${FABMON_URL:-http://localhost:8000}/v1/ping/backup/$(hostname)/$1?$run" || :; }

ping started
if tar -czf "${1:?where to}" -C "${2:?what}" .; then
    ping succeeded
else
    ping failed
    exit 1
fi
