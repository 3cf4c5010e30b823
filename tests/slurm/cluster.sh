#!/usr/bin/env bash
# A real Slurm on one Debian machine: two nodes that share its CPUs, with GPUs that are only names.
#
#     cluster.sh start     install slurm-wlm and munge if they are missing, configure, start
#     cluster.sh stop      stop what start started and remove its configuration
#     cluster.sh status
#     cluster.sh run COMMAND...    start, run the command, stop whatever comes of it
#
# Partitions: cpu (default), gpu, and spare, whose jobs are requeued when one of gpu wants the room.
set -euo pipefail

CONF=/etc/slurm # the built-in place: the plugin takes SLURM_CONF away from its inner srun
BASE=/var/lib/eagle3-test-slurm
HOST=$(hostname -s)
MARK="# written by tests/slurm/cluster.sh"
NODES=(n1 n2)
FILES=(slurm.conf gres.conf cgroup.conf)

fail() {
    echo "error: $*" >&2
    exit 1
}

# a zombie is dead: in a container nobody may collect it
lives() {
    local state
    state=$(sed 's/.*) //; s/ .*//' "/proc/$(cat "$1")/stat") || return
    [[ $state == [RSD] ]]
} 2>/dev/null

until_true() { # SECONDS WHAT COMMAND...
    local tries=$(($1 * 5)) what=$2
    shift 2
    for ((; tries > 0; tries--)); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    tail -n 20 "$BASE"/log/* >&2
    fail "$what did not come up; the ends of its logs are above"
}

end() { # end the process of a pid file
    if lives "$1"; then
        kill "$(cat "$1")"
        for _ in {1..100}; do
            lives "$1" || break
            sleep 0.1
        done
    fi
    rm -f "$1"
}

ours() { [[ -e $CONF/slurm.conf ]] && [[ $(head -n 1 "$CONF/slurm.conf") == "$MARK" ]]; }

check() {
    [[ $(id -u) == 0 ]] || fail "a test cluster needs root; run as root, or skip make test-slurm"
    [[ ! -e $CONF/slurm.conf ]] || ours ||
        fail "$CONF/slurm.conf is another Slurm's; run this on a machine without one"
    ! lives "$BASE/pid/slurmctld" ||
        fail "a test cluster is running already; end it with tests/slurm/cluster.sh stop"
    if ! command -v slurmctld slurmd munged >/dev/null; then
        command -v apt-get >/dev/null ||
            fail "slurmctld, slurmd and munged are missing and there is no apt-get; install them"
    fi
}

install_packages() {
    command -v slurmctld slurmd munged >/dev/null && return
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        slurm-wlm munge >/dev/null
}

configure() {
    install -d "$CONF" "$BASE"/{log,pid,ctld} "${NODES[@]/#/$BASE/}"
    local gpus=() node port=30818
    for number in 0 1 2 3; do # clones of /dev/null: with files Slurm hands out each one singly
        gpus+=("$BASE/gpu$number")
        [[ -e ${gpus[-1]} ]] || mknod -m 666 "${gpus[-1]}" c 1 3
    done
    cat >"$CONF/slurm.conf" <<CFG
$MARK
ClusterName=eagle3test
SlurmctldHost=$HOST(127.0.0.1)
# below the ports that the kernel gives to outgoing connections (ip_local_port_range)
SlurmctldPort=30817
SlurmUser=root
SlurmdUser=root
# a requeued job waits as long as credentials live: 120 s by default
AuthInfo=cred_expire=5
StateSaveLocation=$BASE/ctld
SlurmdSpoolDir=$BASE/%n
SlurmctldPidFile=$BASE/pid/slurmctld
SlurmdPidFile=$BASE/pid/slurmd-%n
SlurmctldLogFile=$BASE/log/slurmctld
SlurmdLogFile=$BASE/log/slurmd-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
# nodes claim more than the machine has
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
MinJobAge=600
CFG
    : >"$CONF/gres.conf"
    for node in "${NODES[@]}"; do
        echo "NodeName=$node NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((++port)) CPUs=8" \
            "RealMemory=256000 Gres=gpu:fake:${#gpus[@]}" >>"$CONF/slurm.conf"
        echo "NodeName=$node Name=gpu Type=fake File=$BASE/gpu[0-3]" >>"$CONF/gres.conf"
    done
    cat >>"$CONF/slurm.conf" <<CFG
PartitionName=cpu Nodes=ALL Default=YES PriorityTier=10 PreemptMode=OFF
PartitionName=gpu Nodes=ALL PriorityTier=10 PreemptMode=OFF
PartitionName=spare Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE
CFG
    # always loaded, never used here
    if [[ $(stat -fc %T /sys/fs/cgroup) == cgroup2fs ]]; then
        printf 'CgroupPlugin=cgroup/v2\nIgnoreSystemd=yes\n'
    else
        printf 'CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\n'
    fi >"$CONF/cgroup.conf"
}

start_munge() {
    munge -n 2>/dev/null | unmunge >/dev/null 2>&1 && return # somebody's own
    [[ -s /etc/munge/munge.key ]] || mungekey --create
    chown -R munge: /etc/munge
    install -d -o munge -g munge -m 755 /run/munge
    install -d -o munge -g munge -m 700 /var/log/munge /var/lib/munge
    setpriv --reuid munge --regid munge --clear-groups munged --num-threads=2 --force
    until_true 10 munged eval 'munge -n | unmunge'
    cp /run/munge/munged.pid "$BASE/pid/munged"
}

idle() { [[ $(sinfo -h -N -p cpu -t idle -o %N | wc -l) == "${#NODES[@]}" ]]; }

start() {
    install_packages
    stop # what is left of a killed one
    configure
    start_munge
    slurmctld
    until_true 20 slurmctld scontrol ping
    for node in "${NODES[@]}"; do slurmd -N "$node"; done
    until_true 30 "a node" idle
}

stop() {
    ours || return 0
    if lives "$BASE/pid/slurmctld"; then
        scancel --user root || true
        for _ in {1..50}; do
            [[ -z $(squeue -h) ]] && break
            sleep 0.2
        done
    fi
    for node in "${NODES[@]}"; do end "$BASE/pid/slurmd-$node"; done
    end "$BASE/pid/slurmctld"
    end "$BASE/pid/munged"
    # without it every Slurm command, and Snakemake's plugin with it, would wait for an answer
    rm -rf "${FILES[@]/#/$CONF/}" "$BASE"
}

case ${1:-} in
    start)
        check
        start
        ;;
    stop) stop ;;
    status)
        ours || fail "no cluster of cluster.sh is configured; start it with $0 start"
        sinfo -N -o '%N %P %c %m %G %T'
        squeue
        ;;
    run)
        check
        trap stop EXIT
        start
        shift
        EAGLE3_TEST_SLURM=1 "$@"
        ;;
    *)
        sed -n '2,9s/^# \{0,1\}//p' "$0"
        exit 2
        ;;
esac
