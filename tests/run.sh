#!/usr/bin/env bash
# All tests. Installs what they need beside Rust: Python's xxhash and zstandard (in a virtual environment below target/) and,
# as root on Debian, a delivery agent, file systems, strace and faketime. What cannot be installed is said, and the tests that
# need it say that they are skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '== %s\n' "$*"; }

step "tools: $(cargo --version), $(rustc --version)"

if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  missing=()
  command -v maildrop >/dev/null || missing+=(maildrop)
  command -v strace >/dev/null || missing+=(strace)
  command -v faketime >/dev/null || missing+=(faketime)
  command -v mkfs.ext4 >/dev/null || missing+=(e2fsprogs)
  command -v mkfs.xfs >/dev/null || missing+=(xfsprogs)
  command -v mksquashfs >/dev/null || missing+=(squashfs-tools)
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
MAILSTRATA_SUMMARY="$PWD/target/summary.tsv"
export MAILSTRATA_SUMMARY
mkdir -p target
rm -f "$MAILSTRATA_SUMMARY"
tested=0
cargo test --quiet --workspace --no-fail-fast -- "$@" || tested=$?
if [ -s "$MAILSTRATA_SUMMARY" ]; then
  step "covered by the simulated disk and the real file systems"
  awk -F'\t' '{ printf "%-45s %9d %s\n", $1, $3, $2; sum[$2] += $3 }
    END { printf "in all:"; for (what in sum) printf " %d %s", sum[what], what; printf "\n" }' "$MAILSTRATA_SUMMARY"
fi
exit "$tested"
