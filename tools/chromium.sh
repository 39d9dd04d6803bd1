#!/usr/bin/env bash
# Print where chromedriver is; install Debian's chromium and chromium-driver first where they are missing and we may.
set -euo pipefail
if ! command -v chromedriver >/dev/null || ! command -v chromium >/dev/null; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "chromium.sh: chromium or chromedriver is missing; install the packages chromium and chromium-driver" >&2
    exit 1
  fi
  {
    apt-get update --quiet
    apt-get install --yes --quiet --no-install-recommends chromium chromium-driver
  } >&2
fi
command -v chromedriver
