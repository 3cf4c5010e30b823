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
PATH=$PATH:/usr/sbin:/sbin # where Debian keeps the daemons; root's PATH may lack them

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

LIMIT=180 # seconds, for a busy machine

comes_true() { # COMMAND...: whether it succeeds before the limit has passed
    local end=$((SECONDS + LIMIT))
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || return 1
        sleep 0.2
    done
}

wait_for() { # WHAT COMMAND...
    local what=$1
    shift
    comes_true "$@" && return
    tail -n 20 "$BASE"/log/* >&2
    fail "waited $LIMIT s for $what; the ends of the logs are above"
}

dead() { ! lives "$1"; }

end() { # end the process of a pid file
    if lives "$1"; then
        kill "$(cat "$1")" || true # it may have ended just now
        if ! comes_true dead "$1"; then
            echo "waited $LIMIT s for the end of $1; it is killed" >&2
            kill -9 "$(cat "$1")" || true
            comes_true dead "$1" || echo "it does not die" >&2
        fi
    fi
    rm -f "$1"
}

# whether a socket of this machine listens or is connected at the port
taken() {
    local files=(/proc/net/tcp)
    [[ ! -e /proc/net/tcp6 ]] || files+=(/proc/net/tcp6)
    awk -v "port=$(printf ':%04X' "$1")" \
        'substr($2, length($2) - 4) == port { found = 1 } END { exit !found }' "${files[@]}"
}

# Slurm cannot be told to take any port and say which. These lie below the ports that the kernel
# gives to outgoing connections (ip_local_port_range), so that none is lost to one by accident.
free_ports() { # COUNT
    local port found=()
    for ((port = 30817; port < 32768 && ${#found[@]} < $1; port++)); do
        taken "$port" || found+=("$port")
    done
    ((${#found[@]} == $1)) || fail "fewer than $1 ports from 30817 to 32767 are free"
    echo "${found[@]}"
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
    local gpus=() ports=() chosen node number
    chosen=$(free_ports $((1 + ${#NODES[@]})))
    read -ra ports <<<"$chosen"
    echo "ports of the test cluster: ${ports[*]}" >&2
    for number in 0 1 2 3; do # clones of /dev/null: with files Slurm hands out each one singly
        gpus+=("$BASE/gpu$number")
        [[ -e ${gpus[-1]} ]] || mknod -m 666 "${gpus[-1]}" c 1 3
    done
    cat >"$CONF/slurm.conf" <<CFG
$MARK
ClusterName=eagle3test
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=${ports[0]}
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
    for number in "${!NODES[@]}"; do
        node=${NODES[number]}
        echo "NodeName=$node NodeHostname=$HOST NodeAddr=127.0.0.1" \
            "Port=${ports[number + 1]} CPUs=8 RealMemory=256000" \
            "Gres=gpu:fake:${#gpus[@]}" >>"$CONF/slurm.conf"
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
    rm -f /run/munge/munged.pid # a dead one's
    setpriv --reuid munge --regid munge --clear-groups munged --num-threads=2 --force
    wait_for "munged" eval 'munge -n | unmunge'
    wait_for "munged's number" test -s /run/munge/munged.pid
    cp /run/munge/munged.pid "$BASE/pid/munged"
}

no_jobs() { [[ -z $(squeue -h) ]]; }

idle() { [[ $(sinfo -h -N -p cpu -t idle -o %N | wc -l) == "${#NODES[@]}" ]]; }

start() {
    install_packages
    stop # what is left of a killed one
    configure
    start_munge
    slurmctld
    wait_for slurmctld scontrol ping
    for node in "${NODES[@]}"; do slurmd -N "$node"; done
    wait_for "the nodes to be idle" idle
}

stop() {
    ours || return 0
    if lives "$BASE/pid/slurmctld"; then
        scancel --user root || true
        comes_true no_jobs || echo "waited $LIMIT s for the end of all jobs; stopping anyway" >&2
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
