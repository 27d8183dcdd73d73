# shellcheck shell=bash
# Debian's own Slurm on two nodes inside this machine, for the test: source this after ../launch/nodes.sh.
# Nothing is installed: the packages are unpacked into a folder.

# Downloads the packages that a cluster takes, into the folder $1.
slurm_packages() {
  local packages=(slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge libmunge2 libhwloc15)
  mkdir -p "$1/root"
  # Debian's apt downloads as a user of its own, who cannot write here; what it says of that is noise.
  (cd "$1" && apt-get download -qq "${packages[@]}" 2>download.log) || { cat "$1/download.log" >&2; return 1; }
  local package
  for package in "$1"/*.deb; do dpkg -x "$package" "$1/root"; done
}

# Starts munge, a controller on `login` and a daemon on each node that is named. $1 is the folder with the packages.
slurm_start() {
  local base=$1 root=$1/root name
  local libraries
  libraries=$(dirname "$(find "$root" -name auth_munge.so)")
  shift
  LD_LIBRARY_PATH=$root/usr/lib/$(uname -m)-linux-gnu:$libraries
  export LD_LIBRARY_PATH SLURM_CONF="$base/slurm.conf"
  export PATH="$root/usr/bin:$root/usr/sbin:$PATH"
  mkdir -p "$base/munge" "$base/log" "$base/state"
  chmod 700 "$base/munge"
  (umask 077 && head -c 1024 /dev/urandom >"$base/munge.key")
  munged --force --socket="$base/munge/socket" --key-file="$base/munge.key" --log-file="$base/log/munged" \
    --pid-file="$base/munge/pid" --seed-file="$base/munge/seed"
  slurm_configuration "$base" "$libraries" "$@" >"$SLURM_CONF"
  slurmctld-wlm -D -c >"$base/log/slurmctld.out" 2>&1 &
  for name; do
    mkdir -p "$base/spool.$name"
    on "$name" slurmd-wlm -D -N "$name" -d "$root/usr/sbin/slurmstepd-wlm" >"$base/log/$name.out" 2>&1 &
  done
}

slurm_configuration() {
  local base=$1 libraries=$2 name memory
  shift 2
  memory=$(awk '/MemTotal/ { print int($2 / 1024 / 2) }' /proc/meminfo)
  cat <<CONF
ClusterName=test
SlurmctldHost=login($CLUSTER_NET.254)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$base/munge/socket
CredType=cred/munge
PluginDir=$libraries
SlurmctldPort=16817
SlurmdPort=16818
SlurmctldPidFile=$base/slurmctld.pid
SlurmdPidFile=$base/slurmd.%n.pid
SlurmctldLogFile=$base/log/slurmctld
SlurmdLogFile=$base/log/slurmd.%n
StateSaveLocation=$base/state
SlurmdSpoolDir=$base/spool.%n
MpiDefault=none
SwitchType=switch/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=1,sched_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
  for name; do
    echo "NodeName=$name CPUs=2 RealMemory=$memory State=UNKNOWN"
  done
}
