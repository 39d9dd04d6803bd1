#!/usr/bin/env bash
# Print where promtool is; install Debian's prometheus package first where it is missing and we may (its service is not started).
set -euo pipefail
if ! command -v promtool >/dev/null; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "promtool.sh: promtool is missing; install the package prometheus" >&2
    exit 1
  fi
  {
    apt-get update --quiet
    # What a package starts is not for us: only its promtool is used.
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d.fabmon
    chmod +x /usr/sbin/policy-rc.d.fabmon
    [ -e /usr/sbin/policy-rc.d ] || { mv /usr/sbin/policy-rc.d.fabmon /usr/sbin/policy-rc.d && ours=yes; }
    apt-get install --yes --quiet --no-install-recommends prometheus
    [ "${ours:-}" = yes ] && rm -f /usr/sbin/policy-rc.d
    rm -f /usr/sbin/policy-rc.d.fabmon
  } >&2
fi
command -v promtool
