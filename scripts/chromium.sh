#!/usr/bin/env bash
# Prints the path of a Chromium for `make test-page`: T2_CHROMIUM where that is set, else the system's, which is
# installed where this is Debian and root. No font comes with Debian's package, hence fonts-inter.
set -euo pipefail

die() { printf 'chromium: ERROR: %s\n' "$*" >&2; exit 1; }
PACKAGES="chromium fonts-inter"

if [ -n "${T2_CHROMIUM:-}" ]; then
  [ -x "$T2_CHROMIUM" ] || die "T2_CHROMIUM is $T2_CHROMIUM, which is no program; give the path of a Chromium, or leave it unset"
  printf '%s\n' "$T2_CHROMIUM"; exit 0
fi
if ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  printf 'chromium: installing %s\n' "$PACKAGES" >&2
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $PACKAGES; } >&2 \
    || die "apt-get could not install $PACKAGES"
fi
command -v chromium || die "not found. On Debian, as root: apt-get update && apt-get install -y --no-install-recommends $PACKAGES; elsewhere set T2_CHROMIUM"
