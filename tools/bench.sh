#!/usr/bin/env bash
# Run one benchmark, or all: tools/bench.sh PYTHON [NAME [SIZE]]
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
if [ -z "${FABMON_TEST_DATABASE_URL:-}" ]; then
  FABMON_TEST_DATABASE_URL=$(tools/timescale.sh | tail -n 1)
  export FABMON_TEST_DATABASE_URL
fi
for file in benchmarks/bench_"${2:-*}".py; do
  name=$(basename "$file" .py)
  echo "== ${name#bench_}"
  "$python" -m "benchmarks.$name" "${@:3}"
done
