#!/usr/bin/env bash
# A SLURM of two nodes on this machine's loopback, for as long as a command runs: slurm_cluster.sh FOLDER COMMAND…
#
# As root, without systemd and without accounting; needs slurmctld, slurmd and munged (packages slurm-wlm and munge).
# Everything lies in FOLDER; the daemons end with the command, whose exit status is the script's.
set -euo pipefail

folder=$(mkdir -p "$1" && cd "$1" && pwd)
shift
host=$(hostname -s)
cpus=$(nproc) # of each node, so that the largest job fits on one

mkdir -p "$folder"/{state,spool-n1,spool-n2,munge}
chmod 755 "$folder" "$folder/munge"

# Snakemake's job steps drop every variable of SLURM's, SLURM_CONF too: the file has to lie in its usual place.
conf=/etc/slurm/slurm.conf
if [ -e "$conf" ]; then
    echo "this machine has a SLURM of its own ($conf), which is left alone" >&2
    exit 77
fi

started=()
stop() {
    for ((i = ${#started[@]} - 1; i >= 0; i--)); do kill "${started[i]}" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -f "$conf"
}
trap stop EXIT
trap 'exit 143' TERM INT

# munged insists on files that nobody else may write.
dd if=/dev/urandom of="$folder/munge/key" bs=1024 count=1 status=none
chmod 600 "$folder/munge/key"
socket="$folder/munge/socket"

cat > "$conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${SLURM_TEST_PORT:-17100}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MinJobAge=300
SlurmdParameters=config_overrides
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((${SLURM_TEST_PORT:-17100} + 1))-$((${SLURM_TEST_PORT:-17100} + 2))] CPUs=$cpus RealMemory=8000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF

munged --foreground --force --key-file="$folder/munge/key" --socket="$socket" --pid-file="$folder/munge/pid" \
    --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" >"$folder/munge/out" 2>&1 &
started+=($!)
for _ in $(seq 50); do [ -S "$socket" ] && break; sleep 0.1; done

slurmctld -D >"$folder/slurmctld.out" 2>&1 &
started+=($!)
for node in n1 n2; do
    slurmd -D -N "$node" >"$folder/slurmd-$node.out" 2>&1 &
    started+=($!)
done
for _ in $(seq 100); do
    [ "$(sinfo --noheader --states=idle --format=%D 2>/dev/null)" = 2 ] && break
    sleep 0.2
done
if [ "$(sinfo --noheader --states=idle --format=%D 2>/dev/null)" != 2 ]; then
    echo "SLURM did not start; its logs:" >&2
    tail -n 5 "$folder"/*.out "$folder"/*.log "$folder"/munge/* >&2 || true
    exit 1
fi

"$@"
