#!/bin/sh
# A Slurm cluster of this one machine, for tests: munged, slurmctld and slurmd of Debian's packages slurm-wlm and munge, run by root.
#   slurm.sh up FOLDER     starts it; everything that it writes is in FOLDER.  Then: export SLURM_CONF=FOLDER/slurm.conf
#   slurm.sh down FOLDER   stops what `up` started
set -eu
folder=$2

stop() {
    if [ -s "$folder/$1.pid" ]; then kill "$(cat "$folder/$1.pid")" || true; fi
}

if [ "$1" = down ]; then
    stop slurmd
    stop slurmctld
    stop munged
    exit 0
fi

mkdir -p "$folder/state" "$folder/spool" "$folder/munge"
chmod 755 "$folder"
# A munge of its own: a key, a socket and a log that no other cluster of this machine uses.
dd if=/dev/urandom of="$folder/munge/key" bs=128 count=1 2>/dev/null
chmod 600 "$folder/munge/key"
chmod 755 "$folder/munge"
munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"

name=$(hostname -s)
cat > "$folder/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$name(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SlurmctldPort=${SLURM_TEST_PORT:-16827}
SlurmdPort=$((${SLURM_TEST_PORT:-16827} + 1))
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=5
NodeName=$name NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
export SLURM_CONF="$folder/slurm.conf"
slurmctld
sleep 1
slurmd
for _ in $(seq 60); do
    if [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ]; then exit 0; fi
    sleep 0.5
done
echo "the node did not become idle: see $folder/slurmctld.log and $folder/slurmd.log" >&2
exit 1
