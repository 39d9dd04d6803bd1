#!/usr/bin/env bash
# The software bill of materials (CycloneDX) of the wheel in dist/ with what it needs to run, as installed in a clean
# environment. The arguments: a Python that has cyclonedx-bom, and the file to write.
set -euo pipefail
python=$1 target=$2
cd "$(dirname "$0")/.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"$python" -m venv "$place/clean"
PIP_CONSTRAINT=constraints.txt "$place/clean/bin/pip" install --quiet --disable-pip-version-check dist/fabmon-*.whl
"$python" -m cyclonedx_py environment --pyproject pyproject.toml --output-reproducible --output-file "$target" \
  "$place/clean/bin/python"
