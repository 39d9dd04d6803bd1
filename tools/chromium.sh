#!/usr/bin/env bash
# Print where chromedriver is; where it is missing, unpack Debian's chromium and chromium-driver into .cache (nothing is installed).
set -euo pipefail
cd "$(dirname "$0")/.."
directory=.cache/chromium
if command -v chromedriver && command -v chromium >/dev/null; then
  exit
fi
if [ ! -e "$directory/done" ]; then
  if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    echo "chromium.sh: chromium and chromedriver are missing; install them" >&2
    exit 1
  fi
  mkdir -p "$directory/packages"
  {
    # The lists may be old or empty; where we may not renew them, they must do.
    [ "$(id -u)" != 0 ] || apt-get update --quiet
    (cd "$directory/packages" && apt-get download --quiet chromium chromium-common chromium-driver)
    for package in "$directory"/packages/*.deb; do
      dpkg-deb --extract "$package" "$directory"
    done
    rm -r "$directory/packages"
    touch "$directory/done"
  } >&2
fi
echo "$PWD/$directory/usr/bin/chromedriver"
