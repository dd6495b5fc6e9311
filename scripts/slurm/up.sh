#!/usr/bin/env bash
# Starts a real Slurm on this machine for `make test-slurm` (munged, slurmctld, a slurmd per node, MariaDB and slurmdbd
# for sacct): no systemd, no cgroup, loopback only, free ports, nothing written outside $T2_SLURM_DIR. No cluster to
# work on. A healthy one of the same shape is left alone, anything else in that folder is replaced. It fails with one
# ERROR line and the daemons' error lines, and stops what it started.
#
#   out=$(scripts/slurm/up.sh) && eval "$out"     # stdout is `export` lines alone
#   sinfo; srun hostname; sbatch --wrap hostname; sacct
#   scripts/slurm/down.sh
#
# Missing packages are installed where this is Debian and root (there: Slurm 22.05, munge 0.5.15, MariaDB 10.11).
#
# Settings (environment):
#   T2_SLURM_DIR       state, logs, spool, key: a short path, for sockets   (default ${TMPDIR:-/tmp}/t2-slurm-UID)
#   T2_SLURM_NODES     nodes, all on this machine: n0 n1 ...; one is named as the host     (default 2)
#   T2_SLURM_CPUS      CPUs that each node declares; may exceed the real ones              (default 2)
#   T2_SLURM_GPUS      GPUs that each node declares, with no device behind them; for root  (default 0)
#   T2_SLURM_MAXTIME   the partition's MaxTime in minutes                                  (default 60)
set -euo pipefail

say() { printf 'slurm/up: %s\n' "$*" >&2; }
STARTED=0
die() {
  say "ERROR: $*"
  if [ "$STARTED" = 1 ]; then
    for f in "$LOG"/*.log; do
      grep -iE 'error|fatal|fail' "$f" | grep -vE 'pmix|Trying backup|state file|innodb_buffer' | tail -n 6 | sed "s#^#  ${f##*/}: #" >&2 || true
    done
    say "full logs in $LOG; stopping what was started"
    T2_SLURM_DIR=$DIR bash "$HERE/down.sh" >&2 || true
  fi
  exit 1
}

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
DIR=${T2_SLURM_DIR:-${TMPDIR:-/tmp}/t2-slurm-$(id -u)}
NODES=${T2_SLURM_NODES:-2}
CPUS=${T2_SLURM_CPUS:-2}
GPUS=${T2_SLURM_GPUS:-0}
MAXTIME=${T2_SLURM_MAXTIME:-60}
case $DIR in /*) ;; *) DIR=$PWD/$DIR ;; esac
LOG=$DIR/log RUN=$DIR/run CONF=$DIR/etc/slurm.conf
export PATH=$PATH:/usr/sbin:/sbin SLURM_CONF=$CONF
# our own knobs must not reach the jobs through the daemons' environment
unset T2_SLURM_UP T2_SLURM_NODES T2_SLURM_CPUS T2_SLURM_GPUS T2_SLURM_MAXTIME MASTER_ADDR MASTER_PORT

PACKAGES="slurm-wlm munge slurmdbd mariadb-server-core mariadb-client-core"
TOOLS="munged munge unmunge slurmctld slurmd slurmdbd srun sbatch scontrol sinfo sacct mariadbd mariadb-install-db my_print_defaults"
missing() { for t in $TOOLS; do command -v "$t" >/dev/null || echo "$t"; done; }
if [ -n "$(missing)" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  say "installing $PACKAGES"
  # Debian starts the services of what it installs, unless this file says no; those would take the ports' defaults.
  [ -e /usr/sbin/policy-rc.d ] || { printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
                                    chmod 755 /usr/sbin/policy-rc.d; trap 'rm -f /usr/sbin/policy-rc.d' EXIT; }
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $PACKAGES; } >&2 \
    || die "apt-get could not install $PACKAGES"
fi
[ -z "$(missing)" ] || die "not found: $(missing | tr '\n' ' '). On Debian, as root: apt-get update && apt-get install -y --no-install-recommends $PACKAGES"
[ ${#DIR} -le 80 ] || die "T2_SLURM_DIR has ${#DIR} characters; a unix socket path must stay under 108: use a short one"
[ -z "${SLURM_JOB_ID:-}" ] || die "this shell is inside Slurm job $SLURM_JOB_ID"
HOST=$(hostname -s)
ME=$(id -un)
if [ "$NODES" = 1 ]; then NAMES=$HOST; else NAMES=$(seq -f 'n%g' 0 $((NODES - 1)) | tr '\n' ' '); fi
SHAPE="nodes=$NODES cpus=$CPUS gpus=$GPUS maxtime=$MAXTIME"
MEM=$(( $(awk '/MemTotal/{print $2}' /proc/meminfo) / 1024 * 8 / 10 / NODES ))

emit() { printf 'export SLURM_CONF=%q\nexport T2_SLURM_DIR=%q\nexport T2_SLURM_UP=yes\n' "$CONF" "$DIR"; }
alive() { # alive PIDNAME PROGRAM: is the process in our pid file running, and is it that program?
  local p; p=$(cat "$RUN/$1.pid" 2>/dev/null) || return 1
  [ -n "$p" ] && [ -r "/proc/$p/cmdline" ] && tr '\0' ' ' <"/proc/$p/cmdline" | grep -q "$2"
}
healthy() {
  alive munged munged && alive slurmctld slurmctld || return 1
  local n; for n in $NAMES; do alive "slurmd-$n" slurmd || return 1; done
  timeout 5 scontrol ping 2>/dev/null | grep -q UP || return 1
  local s; s=$(timeout 5 sinfo -h -N -p debug -o '%N %T' 2>/dev/null) || return 1
  [ "$(grep -cE ' (idle|mixed|allocated|completing)$' <<<"$s")" = "$NODES" ] || return 1
  { alive mariadbd mariadbd && alive slurmdbd slurmdbd && timeout 5 sacct -n >/dev/null 2>&1; }
}

if [ -f "$CONF" ] && [ "$(cat "$DIR/.t2-slurm" 2>/dev/null)" = "$SHAPE" ] && healthy; then
  say "already up in $DIR ($SHAPE)"; emit; exit 0
fi
if [ -d "$DIR" ]; then
  [ -f "$DIR/.t2-slurm" ] || die "$DIR exists and was not made by this script: refusing to touch it"
  [ -z "$(ls "$RUN" 2>/dev/null)" ] || say "stale, unhealthy or differently shaped cluster in $DIR: replacing it"
  T2_SLURM_DIR=$DIR bash "$HERE/down.sh" >&2 || die "could not stop the old one"
fi

mkdir -p "$DIR"/{etc,log,run,state,spool}
chmod 755 "$DIR" "$DIR"/{etc,log,run,state,spool}   # munged refuses group/world-writable parents (a sticky /tmp is fine)
echo "$SHAPE" > "$DIR/.t2-slurm"
rm -f "$LOG"/*.log "$DIR"/etc/{slurmdbd,gres}.conf
STARTED=1
trap 'die "unexpected failure at line $LINENO"' ERR

read -r CTLD_PORT DBD_PORT DB_PORT SLURMD_PORTS < <(python3 - "$NODES" <<'PY'
import socket, sys
s = [socket.socket() for _ in range(3 + int(sys.argv[1]))]
for x in s: x.bind(("127.0.0.1", 0))
print(*[x.getsockname()[1] for x in s])
PY
)

# ---- munge with its own key and socket; /etc/munge and /run/munge are not used
[ -s "$DIR/etc/munge.key" ] || ( umask 077; head -c 1024 /dev/urandom > "$DIR/etc/munge.key" )
munged --key-file="$DIR/etc/munge.key" --socket="$RUN/munge.sock" --pid-file="$RUN/munged.pid" \
       --log-file="$LOG/munged.log" --seed-file="$DIR/etc/munge.seed" --num-threads=4 || die "munged did not start"
munge --socket="$RUN/munge.sock" -n 2>>"$LOG/munged.log" | unmunge --socket="$RUN/munge.sock" >/dev/null \
  || die "munge cannot encode and decode through $RUN/munge.sock"

# ---- accounting: MariaDB on loopback TCP + slurmdbd
rm -rf "$DIR/db"
mariadb-install-db --no-defaults --datadir="$DIR/db" --user="$ME" --auth-root-authentication-method=normal \
  --skip-test-db --innodb-log-file-size=8M >"$LOG/mariadb-install.log" 2>&1 || die "mariadb-install-db failed, see $LOG/mariadb-install.log"
cat > "$DIR/etc/init.sql" <<SQL
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';
SQL
mariadbd --no-defaults --datadir="$DIR/db" --user="$ME" --bind-address=127.0.0.1 --port="$DB_PORT" \
  --socket="$RUN/db.sock" --pid-file="$RUN/mariadbd.pid" --log-error="$LOG/mariadbd.log" --init-file="$DIR/etc/init.sql" \
  --skip-name-resolve --innodb-log-file-size=8M --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 \
  --skip-log-bin --performance-schema=0 </dev/null >/dev/null 2>&1 &
for _ in $(seq 1 60); do [ -S "$RUN/db.sock" ] && [ -s "$RUN/mariadbd.pid" ] && break; sleep 0.25; done
[ -S "$RUN/db.sock" ] || die "mariadbd did not start"
( umask 077; cat > "$DIR/etc/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$RUN/munge.sock
DbdHost=$HOST
DbdAddr=127.0.0.1
DbdPort=$DBD_PORT
SlurmUser=$ME
PidFile=$RUN/slurmdbd.pid
LogFile=$LOG/slurmdbd.log
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$DB_PORT
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
CONF
)
slurmdbd || die "slurmdbd did not start"          # reads slurmdbd.conf beside \$SLURM_CONF
# AccountingStoragePass: with a munge socket off its default path, this is where that path must ALSO be named,
# else "Munge encode failed: Failed to access /run/munge/munge.socket.2" and "we have no TRES"
ACCT_CONF="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$DBD_PORT
AccountingStoragePass=$RUN/munge.sock"
JOBACCT="JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5"

# ---- nodes
NODE_LINES=
if [ "$GPUS" -gt 0 ]; then
  # gres/gpu wants one character device per GPU: without File= the node drains ("gres/gpu count reported lower than
  # configured (0 < N)"); with plain files CUDA_VISIBLE_DEVICES is not set. Twins of /dev/null do.
  for i in $(seq 0 $((GPUS - 1))); do
    [ -c "$DIR/etc/nvidia$i" ] || mknod "$DIR/etc/nvidia$i" c 1 3 || die "mknod refused: T2_SLURM_GPUS needs root"
  done
fi
set -- $SLURMD_PORTS
for n in $NAMES; do
  NODE_LINES+="NodeName=$n NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$1 CPUs=$CPUS RealMemory=$MEM"
  [ "$GPUS" = 0 ] || { NODE_LINES+=" Gres=gpu:$GPUS"
    echo "NodeName=$n Name=gpu Flags=nvidia_gpu_env File=$DIR/etc/nvidia[0-$((GPUS - 1))]" >> "$DIR/etc/gres.conf"; }
  NODE_LINES+=" State=UNKNOWN"$'\n'
  mkdir -p "$DIR/spool/$n"; shift
done
TASK_PROLOG=
if [ "$NODES" -gt 1 ]; then
  # n0, n1 ... do not resolve as host names, and Lightning takes the first one for MASTER_ADDR
  printf '#!/bin/sh\necho "export MASTER_ADDR=127.0.0.1"\n' > "$DIR/etc/task_prolog.sh"; chmod 755 "$DIR/etc/task_prolog.sh"
  TASK_PROLOG="TaskProlog=$DIR/etc/task_prolog.sh"
fi

cat > "$CONF" <<CONF
ClusterName=slurmtest
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$CTLD_PORT
SlurmUser=$ME
SlurmdUser=$ME
# cred_expire: a requeued job waits cred_expire+1 s (Reason=BeginTime) before it may start again; default 120
AuthType=auth/munge
AuthInfo=socket=$RUN/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$RUN/slurmctld.pid
SlurmdPidFile=$RUN/slurmd-%n.pid
SlurmctldLogFile=$LOG/slurmctld.log
SlurmdLogFile=$LOG/slurmd-%n.log
SlurmctldDebug=info
SlurmdDebug=info
# no cgroup, no systemd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
$JOBACCT
$TASK_PROLOG
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0
PriorityType=priority/basic
# jobs of spare give way to those of urgent: they are requeued, and jobs of debug are not touched
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# Lightning takes 15000 + the last 4 digits of the job id for MASTER_PORT: two fresh clusters must not both begin at 1
FirstJobId=$((RANDOM % 8000 + 1000))
MaxJobId=9999999
JobRequeue=1
ReturnToService=2
KillWait=5
MinJobAge=600
InactiveLimit=0
SlurmctldTimeout=30
SlurmdTimeout=60
EnforcePartLimits=ALL
PropagateResourceLimits=NONE
MailProg=/bin/true
RebootProgram=/bin/true
JobCompType=jobcomp/filetxt
JobCompLoc=$LOG/jobcomp.txt
$ACCT_CONF
DefMemPerCPU=512
GresTypes=gpu
${NODE_LINES}PartitionName=debug Nodes=ALL Default=YES MaxTime=$MAXTIME DefaultTime=5 State=UP OverSubscribe=NO PriorityTier=10 PreemptMode=OFF
PartitionName=urgent Nodes=ALL MaxTime=$MAXTIME DefaultTime=5 State=UP OverSubscribe=NO PriorityTier=10 PreemptMode=OFF
PartitionName=spare Nodes=ALL MaxTime=$MAXTIME DefaultTime=5 State=UP OverSubscribe=NO PriorityTier=1 GraceTime=0
CONF

end=$((SECONDS + 20)) ok=0
while [ $SECONDS -lt $end ]; do
  if timeout 5 sacctmgr -i add cluster slurmtest >"$LOG/sacctmgr.log" 2>&1 || grep -q 'already exists' "$LOG/sacctmgr.log"; then ok=1; break; fi
  sleep 0.2
done
[ $ok = 1 ] || die "sacctmgr cannot talk to slurmdbd: $(tail -n 1 "$LOG/sacctmgr.log")"
slurmctld -f "$CONF" -c || die "slurmctld did not start"
for n in $NAMES; do slurmd -f "$CONF" -N "$n" || die "slurmd $n did not start"; done

for _ in $(seq 1 60); do if healthy; then break; fi; sleep 0.5; done
if ! healthy; then scontrol ping >&2 || true; sinfo -R >&2 || true; die "cluster not healthy after 30 s"; fi
say "up in $DIR: $SHAPE, ${MEM} MB per node, partitions debug, urgent and spare, nodes $NAMES"
emit
