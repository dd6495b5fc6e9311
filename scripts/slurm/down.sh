#!/usr/bin/env bash
# down.sh: cancel the jobs of, and stop, the Slurm that up.sh started. Only processes whose pid is in our
# own pid files and whose command line names that daemon are signalled. Idempotent. Keeps logs and configuration;
# T2_SLURM_PURGE=1 also deletes the directory.
set -uo pipefail
say() { printf 'slurm/down: %s\n' "$*" >&2; }
DIR=${T2_SLURM_DIR:-${TMPDIR:-/tmp}/t2-slurm-$(id -u)}
case $DIR in /*) ;; *) DIR=$PWD/$DIR ;; esac
[ -d "$DIR" ] || { say "nothing at $DIR"; exit 0; }
[ -f "$DIR/.t2-slurm" ] || { say "ERROR: $DIR was not made by up.sh: not touching it"; exit 1; }
export SLURM_CONF=$DIR/etc/slurm.conf PATH=$PATH:/usr/sbin:/sbin
RC=0

if [ -f "$SLURM_CONF" ] && [ -f "$DIR/run/slurmctld.pid" ] && timeout 5 scontrol ping 2>/dev/null | grep -q UP; then
  ids=$(timeout 5 squeue -h -o %A 2>/dev/null | sort -u)
  [ -z "$ids" ] || timeout 10 scancel $ids 2>/dev/null || true
  for _ in $(seq 1 40); do [ -z "$(timeout 5 squeue -h 2>/dev/null)" ] && break; sleep 0.25; done
fi
gone() { [ ! -d "/proc/$1" ] || grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null; }   # a zombie has stopped
stop() { # stop PIDFILE PROGRAM
  local f=$1 n=$2 p
  p=$(cat "$f" 2>/dev/null) || return 0
  if [ -z "$p" ] || gone "$p" || ! tr '\0' ' ' <"/proc/$p/cmdline" 2>/dev/null | grep -q "$n"; then rm -f "$f"; return 0; fi
  kill -TERM "$p" 2>/dev/null
  for _ in $(seq 1 60); do gone "$p" && { rm -f "$f"; say "stopped $n ($p)"; return 0; }; sleep 0.1; done
  kill -KILL "$p" 2>/dev/null; sleep 0.5
  if gone "$p"; then rm -f "$f"; say "killed $n ($p)"; else say "ERROR: $n ($p) will not die"; RC=1; fi
}
for f in "$DIR"/run/slurmd-*.pid; do stop "$f" slurmd; done
stop "$DIR/run/slurmctld.pid" slurmctld
stop "$DIR/run/slurmdbd.pid" slurmdbd
stop "$DIR/run/mariadbd.pid" mariadbd
stop "$DIR/run/munged.pid" munged
rm -rf "$DIR/state" "$DIR/spool" "$DIR/db"
[ "${T2_SLURM_PURGE:-0}" = 1 ] && rm -rf "$DIR"
exit $RC
