#!/usr/bin/env bash
# Run pytest (the command line given) with a real TimescaleDB beside the embedded PostgreSQL.
# Where TimescaleDB cannot be had, the embedded lane runs alone and says so; with CI=true that is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${FABMON_TEST_DATABASE_URL:-}" ]; then
  if url=$(tools/timescale.sh | tail -n 1); then
    export FABMON_TEST_DATABASE_URL=$url
  elif [ "${CI:-}" = true ]; then
    echo "test.sh: CI needs both lanes, and TimescaleDB could not be started" >&2
    exit 1
  else
    echo "test.sh: running the embedded lane alone" >&2
  fi
fi
if [ "${CI:-}" = true ]; then
  tools/promtool.sh >/dev/null
  tools/chromium.sh >/dev/null
fi
exec "$@"
