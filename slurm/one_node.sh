#!/usr/bin/env bash
# A real SLURM on this one machine, for trying things and for `make test-slurm`; as root, without systemd.
#   slurm/one_node.sh up      start munge, slurmctld and NODES virtual nodes; prints the variable to export
#   slurm/one_node.sh down    end them and remove their folder
# Several nodes share the machine (`slurmd -N`), GPUs are nodes of /dev/null, and the partition `urgent`
# pre-empts `main`. Nothing outside the folder is touched: clients find it by SLURM_CONF.
set -euo pipefail

folder=${SLURM_FOLDER:-/tmp/tiebreak-slurm}
port=${SLURM_PORT:-26817}
nodes=${NODES:-4}
cpus=${CPUS:-2}
gpus=${GPUS:-2}
host=$(uname -n)
host=${host%%.*}
export SLURM_CONF=$folder/slurm.conf

say() { echo "one_node.sh: $*" >&2; }

is_alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

# Wait up to so many tenths of a second for a command to succeed.
await() {
  local tenths=$1
  shift
  for _ in $(seq "$tenths"); do
    if "$@" >/dev/null 2>&1; then return; fi
    sleep 0.1
  done
  say "waited in vain for: $*"
  return 1
}

require_packages() {
  if command -v slurmctld munged sbatch >/dev/null; then return; fi
  say "SLURM is not installed: apt-get install slurm-wlm munge"
  exit 69
}

write_configuration() {
  local gpu device
  mkdir -p "$folder"/{state,log,run,spool,devices}
  chmod 755 "$folder" "$folder"/*/
  (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
  for gpu in $(seq 0 $((gpus - 1))); do
    device=$folder/devices/nvidia$gpu
    # A container may not make devices; a link to one will do.
    [ -e "$device" ] || mknod "$device" c 1 3 2>/dev/null || ln -s /dev/null "$device"
  done
  cat >"$SLURM_CONF" <<CONF
ClusterName=onenode
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until its old credential has expired: 5 s here, 120 s by default.
AuthInfo=socket=$folder/run/munge.sock,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/%n.log
MpiDefault=none
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobCompType=jobcomp/filetxt
JobCompLoc=$folder/log/jobs.txt
# More CPUs than the machine has.
SlurmdParameters=config_overrides
SlurmdTimeout=${SLURMD_TIMEOUT:-10}
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=100000
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
ReturnToService=2
KillWait=5
MinJobAge=600
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
MaxJobCount=20000
EnforcePartLimits=ALL
MaxArraySize=${MAX_ARRAY:-1001}
NodeName=n[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 11))-$((port + 10 + nodes)) CPUs=$cpus RealMemory=4000 Gres=gpu:$gpus
PartitionName=main Nodes=ALL Default=YES MaxTime=1-0 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=1-0 State=UP PriorityTier=9 PreemptMode=OFF
CONF
  echo "NodeName=n[1-$nodes] Name=gpu File=$folder/devices/nvidia[0-$((gpus - 1))]" >"$folder/gres.conf"
}

is_idle() {
  is_alive "$folder/run/slurmctld.pid" &&
    [ "$(sinfo -h -N -p main -t idle -o %N | sort -u | wc -l)" = "$nodes" ]
}

start_node() {
  mkdir -p "$folder/spool/$1"
  slurmd -N "$1"
}

up() {
  require_packages
  stop
  write_configuration
  munged --force --key-file="$folder/munge.key" --socket="$folder/run/munge.sock" \
    --pid-file="$folder/run/munged.pid" --log-file="$folder/log/munged.log" \
    --seed-file="$folder/run/munge.seed" 2>/dev/null
  slurmctld -c
  for node in $(seq "$nodes"); do start_node "n$node"; done
  await 600 is_idle || { tail -qn 5 "$folder"/log/*.log >&2; exit 1; }
  say "$nodes nodes are up after $SECONDS s"
  echo "export SLURM_CONF=$SLURM_CONF"
}

end() {
  local pid=$1
  kill "$pid" 2>/dev/null || return 0
  for _ in $(seq 50); do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -9 "$pid" 2>/dev/null || true
}

stop() {
  if is_alive "$folder/run/slurmctld.pid"; then timeout 5 scancel --user=root 2>/dev/null || true; fi
  for file in "$folder"/run/n*.pid "$folder/run/slurmctld.pid" "$folder/run/munged.pid"; do
    if is_alive "$file"; then end "$(cat "$file")"; fi
  done
}

case "${1:-}" in
  up) up ;;
  node) start_node "$2" ;;
  down)
    stop
    if [ -e "$folder/munge.key" ]; then rm -rf "$folder"; fi
    ;;
  *)
    echo "usage: slurm/one_node.sh up|down|node NAME" >&2
    exit 64
    ;;
esac
