#!/usr/bin/env bash
# A TimescaleDB server for the tests: `make timescale`.
#
#   tools/timescale.sh         build it once, start it; the last line on stdout is its URL, all else goes to stderr
#   tools/timescale.sh stop    stop it; what it holds stays
#
# TIMESCALE_DIR    where it lives (default: .timescale in the checkout); remove the directory to be rid of it
# TIMESCALE_PORT   its port on 127.0.0.1 (default: 55433, or the next free one)
#
# Debian's own packages in a tree of their own (debootstrap), run by chroot: needs root on Linux. It is a test server: it
# trusts every local user, and with fsync off a power cut may destroy what it holds.
set -euo pipefail
umask 022

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dir=${TIMESCALE_DIR:-$root/.timescale}
tree=$dir/tree
bin=/usr/lib/postgresql/17/bin
data=/srv/fabmon

say() { printf '%s\n' "timescale: $*" >&2; }

fail() {
  say "$1; set FABMON_TEST_DATABASE_URL to a TimescaleDB that you run instead"
  exit 1
}

# Run one of PostgreSQL's programs in the tree, as its account. Descriptor 9 is our lock: the server must not inherit it.
inside() { (cd / && exec chroot --userspec=postgres:postgres "$tree" /usr/bin/env LC_ALL=C "$bin/$1" "${@:2}" 9>&-); }

complete() { [[ -x $tree$bin/postgres && -e $tree/usr/lib/postgresql/17/lib/timescaledb.so ]]; }

recorded_port() { sed -n 4p "$tree$data/postmaster.pid" 2>/dev/null || true; }

running() {
  local port
  complete || return 1
  port=$(recorded_port)
  [[ -n $port ]] && inside pg_ctl -D "$data" status >/dev/null 2>&1 &&
    inside pg_isready -q -h 127.0.0.1 -p "$port" -t 10
}

taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

check_host() {
  [[ $(uname -s) == Linux ]] || fail "this works on Linux only"
  [[ $(id -u) == 0 ]] || fail "chroot needs root"
}

# What an interrupted debootstrap leaves: mounts first, or rm would walk into /proc.
throw_away() {
  local mounted
  [[ -e $1 ]] || return 0
  while read -r _ mounted _; do
    if [[ $mounted == "$1"/* ]]; then umount -l "$mounted"; fi
  done </proc/mounts
  rm -rf --one-file-system "$1"
}

build() {
  local new=$dir/tree.new
  complete && return
  if ! command -v debootstrap >/dev/null; then
    command -v apt-get >/dev/null || fail "there is no debootstrap and no apt-get to install it"
    say "installing debootstrap"
    { apt-get update -qq && apt-get install -y --no-install-recommends debootstrap debian-archive-keyring; } >&2 ||
      fail "debootstrap is missing and apt-get does not install it"
  fi
  throw_away "$new"
  throw_away "$tree"
  say "building $tree (about a minute)"
  # It inherits our lock: where only this script was killed, the next run waits for it to end.
  debootstrap --variant=minbase --include=postgresql-17,postgresql-17-timescaledb trixie "$new" >"$dir/debootstrap.log" 2>&1 ||
    fail "debootstrap: $(tail -n 1 "$dir/debootstrap.log")"
  mv "$new" "$tree"
}

initialize() {
  [[ -e $tree$data/PG_VERSION ]] && return
  rm -rf "$tree$data.new"
  install -d -m 0755 "$tree/srv"
  chroot "$tree" install -d -m 0700 -o postgres -g postgres "$data.new"
  inside initdb -D "$data.new" -U postgres --auth=trust --encoding=UTF8 --no-locale --no-sync >&2
  cat >>"$tree$data.new/postgresql.conf" <<'CONF'
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
shared_preload_libraries = 'timescaledb'
timescaledb.telemetry_level = off
timescaledb.max_background_workers = 4
max_worker_processes = 16
max_connections = 200
autovacuum = on
timezone = 'UTC'
# A test server: speed, not durability.
fsync = off
full_page_writes = off
CONF
  mv "$tree$data.new" "$tree$data"
}

start() {
  local port=${TIMESCALE_PORT:-55433}
  if [[ -z ${TIMESCALE_PORT:-} ]]; then
    while taken "$port"; do port=$((port + 1)); done
  fi
  if taken "$port"; then fail "port $port is in use (TIMESCALE_PORT)"; fi
  chroot "$tree" install -m 0600 -o postgres -g postgres /dev/null /srv/log
  # pg_ctl gives the server a session of its own: Ctrl-C here does not reach it.
  # Memory as docs/operating.md advises; given here, so that a tree of before has it too.
  inside pg_ctl -D "$data" -l /srv/log -w -t 60 -o "-p $port -c shared_buffers=1GB -c max_wal_size=4GB" start >&2 ||
    fail "PostgreSQL does not start: $(tail -n 1 "$tree/srv/log")"
}

mkdir -p "$dir" 2>/dev/null || fail "cannot write to $dir"
dir=$(cd "$dir" && pwd)
tree=$dir/tree

case ${1:-start} in
  start)
    check_host
    exec 9>"$dir/lock"
    flock -w 900 9 || fail "another run holds $dir/lock"
    if ! running; then
      build
      initialize
      start
    fi
    say "running; stop it with tools/timescale.sh stop"
    printf '%s\n' "postgresql://postgres@127.0.0.1:$(recorded_port)/postgres"
    ;;
  stop)
    check_host
    if running; then
      inside pg_ctl -D "$data" -m fast -w -t 60 stop >&2
    else
      say "not running"
    fi
    ;;
  *)
    say "usage: tools/timescale.sh [stop]"
    exit 2
    ;;
esac
