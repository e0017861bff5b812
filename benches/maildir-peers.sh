#!/usr/bin/env bash
# The same Maildir tree into mailstrata, restic, borg, rustic and tar | zstd: first, unchanged, 1 % changed, one back, all back.
#
#   maildir-peers.sh TREE [WORKDIR]     TREE: {user}/{cur,new,tmp} and Maildir++ folders; 1 % of its messages get a flag
#
# Programs that are not installed are left out and said so. MAILSTRATA names the binary (default: target/release/mailstrata).
# Every first backup ends with `sync` of the file system it is on, because only mailstrata is durable when it returns.
# WORKDIR (default: a new directory beside TREE) is removed in the end. Caches are dropped (as root) before "one back".
set -u
tree=$(realpath "${1:?which tree?}")
work=$(mktemp -d "${2:-$(dirname "$tree")}/maildir-peers.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
here=$(cd "$(dirname "$0")/.." && pwd)
ms=${MAILSTRATA:-$here/target/release/mailstrata}
export MAILSTRATA_STORE=$work/mailstrata RESTIC_PASSWORD=x RUSTIC_PASSWORD=x RESTIC_CACHE_DIR=$work/cache
export BORG_BASE_DIR=$work/borg-base BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes BORG_RELOCATED_REPO_ACCESS_IS_OK=yes
source="maildir:$tree/{user}"
synced() { "$@" && sync -f "$work"; }

# Seconds of a command; its output is kept for a failure.
timed() {
    local begin end
    begin=$(date +%s.%N)
    if ! "$@" >"$work/out" 2>&1; then echo "failed: $*" >&2; tail -3 "$work/out" >&2; echo "-"; return; fi
    end=$(date +%s.%N)
    awk -v a="$begin" -v b="$end" 'BEGIN { printf "%.2f", b - a }'
}
row() { printf '%-34s %12s %12s %12s %12s %12s\n' "$@"; }
have() { command -v "$1" >/dev/null; }
cold() { sync; if [ -w /proc/sys/vm/drop_caches ]; then echo 3 >/proc/sys/vm/drop_caches; fi; }

backup() { # program, name of the snapshot
    case $1 in
    mailstrata) "$ms" scan --source "$source" ;;
    restic) restic -q -r "$work/restic" backup "$tree" ;;
    borg) borg create "$work/borg::$2" "$tree" ;;
    rustic) rustic -r "$work/rustic" --no-cache backup "$tree" ;;
    tar) tar -C "$tree" -cf - . | zstd -1 -T0 -q -o "$work/tar-$2.zst" ;;
    esac
}
everything_back() {
    local to=$work/back/$1 account
    mkdir -p "$to"
    case $1 in
    mailstrata)
        for account in $("$ms" accounts | awk '{ print $NF }'); do
            "$ms" restore account "$account" --to "maildir:$to/$account" || return
        done ;;
    restic) restic -q -r "$work/restic" restore latest --target "$to" ;;
    borg) (cd "$to" && borg extract "$work/borg::first") ;;
    rustic) rustic -r "$work/rustic" --no-cache restore latest:"$tree" "$to" ;;
    tar) zstd -dcq "$work/tar-first.zst" | tar -C "$to" -xf - ;;
    esac
}
one_back() {
    case $1 in
    mailstrata) "$ms" cat "$account" "$item" ;;
    restic) restic -q -r "$work/restic" dump latest "$message" ;;
    borg) borg extract --stdout "$work/borg::first" "${message#/}" ;;
    rustic) rustic -r "$work/rustic" --no-cache dump latest:"$message" ;;
    tar) zstd -dcq "$work/tar-first.zst" | tar -xOf - "./${message#"$tree"/}" ;;
    esac
}
check() {
    case $1 in
    mailstrata) "$ms" fsck --read-data ;;
    restic) restic -q -r "$work/restic" check --read-data ;;
    borg) borg check --verify-data "$work/borg" ;;
    rustic) rustic -r "$work/rustic" --no-cache check --read-data ;;
    tar) zstd -tq "$work/tar-first.zst" ;;
    esac
}

[ -x "$ms" ] || { echo "there is no $ms: cargo build --release, or set MAILSTRATA" >&2; exit 1; }
"$ms" init >/dev/null || exit 1
if have restic; then restic init -q -r "$work/restic" >/dev/null || exit 1; fi
if have borg; then borg init -e none "$work/borg" || exit 1; fi
if have rustic; then rustic -r "$work/rustic" --no-cache init >/dev/null 2>&1 || exit 1; fi
programs=(mailstrata restic borg rustic tar)
each() { # title, function, arguments after the program
    local title=$1 what=$2 p cells=()
    shift 2
    for p in "${programs[@]}"; do
        if [ "$p" = mailstrata ] || have "$p"; then cells+=("$(timed "$what" "$p" "$@")"); else cells+=("absent"); fi
    done
    row "$title" "${cells[@]}"
}
durable_backup() { synced backup "$@"; }
durable_back() { synced everything_back "$@"; }

# The page cache is warm for all of them alike.
find "$tree" -type f -exec cat {} + >/dev/null
message=$(find "$tree" -path '*/cur/*' -type f | sort | sed -n '100p')
row "seconds" "${programs[@]}"
each "first backup, and sync" durable_backup first
each "nothing changed" backup same
sizes=()
for p in mailstrata restic borg rustic tar-first.zst; do
    if [ -e "$work/$p" ]; then sizes+=("$(du -sb "$work/$p" | cut -f1 | awk '{ printf "%.1f", $1 / 1e6 }')"); else sizes+=("absent"); fi
done
row "size, MB (mail: $(du -sb "$tree" | cut -f1 | awk '{ printf "%.1f", $1 / 1e6 }'))" "${sizes[@]}"
account=$("$ms" accounts | head -1 | awk '{ print $NF }')
item=$("$ms" items "$account" --kind message --json | head -1 | sed 's/.*"item":"\([^"]*\)".*/\1/')
for _ in 1 2 3; do
    cold
    each "one message back, cold" one_back
done
each "everything back, and sync" durable_back
each "every byte checked" check
find "$tree" -path '*/cur/*' -type f | sort | awk 'NR % 100 == 0' | while IFS= read -r f; do
    case $f in *:2,*F*) mv "$f" "${f/F/}" ;; *:2,*) mv "$f" "${f}F" ;; *) mv "$f" "$f:2,F" ;; esac
done
each "1 % of the flags changed" backup changed
