#!/usr/bin/env bash
# All tests. Installs what they need beside Rust: Python's xxhash and zstandard (in a virtual environment below target/) and,
# as root on Debian, a delivery agent. What cannot be installed is said, and the tests that need it say that they are skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '== %s\n' "$*"; }

step "tools: $(cargo --version), $(rustc --version)"

if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  missing=()
  command -v maildrop >/dev/null || missing+=(maildrop)

  command -v cc >/dev/null || missing+=(gcc libc6-dev)
  command -v python3 >/dev/null || missing+=(python3)
  python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
  if [ "${#missing[@]}" -gt 0 ]; then
    step "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # A service is not wanted, only the programs: nothing may start one.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
      printf '#!/bin/sh\nexit 101\n' >"$policy"
      chmod +x "$policy"
      trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  fi
fi

step "the reader that was written from the specification"
venv=target/python
if [ ! -x "$venv/bin/python3" ]; then
  python3 -m venv "$venv" || echo "no virtual environment: the reader's tests will say that they are skipped"
fi
if [ -x "$venv/bin/python3" ]; then
  "$venv/bin/python3" -c 'import xxhash, zstandard' 2>/dev/null ||
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r format-spec/requirements.txt
  MAILSTRATA_PYTHON="$PWD/$venv/bin/python3"
  export MAILSTRATA_PYTHON
fi

step "building"
cargo build --quiet --workspace --all-targets
step "testing"
cargo test --quiet --workspace --no-fail-fast -- "$@"
