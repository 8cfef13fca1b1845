#!/usr/bin/env bash
# Runs several processes on this machine, to try out a run on a cluster.
#
#   launch/local_multiprocess.sh [--dry-run] 2 --config=configs/toy.py --workdir=runs/two
#
# The first argument is the number of processes; the others are those of cocosnet_jax.main. Each
# process simulates DEVICES devices on the CPU (default: 1). Ctrl-C stops all processes: at once while
# they compile, later after saving a checkpoint. --dry-run prints the commands and runs none.
set -euo pipefail

if [[ " $* " == *" --help "* ]]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0"
  exit
fi
dry_run=""
if [[ "${1:-}" == --dry-run ]]; then
  dry_run=yes
  shift
fi
if [[ ! "${1:-}" =~ ^[1-9][0-9]*$ ]]; then
  echo "error: the first argument is '${1:-}'; it must be the number of processes; see --help" >&2
  exit 2
fi
if [[ ! "${DEVICES:-1}" =~ ^[1-9][0-9]*$ ]]; then
  echo "error: DEVICES is '$DEVICES'; it must be the number of devices of each process" >&2
  exit 2
fi
processes=$1
shift
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
port=${PORT:-$((20000 + RANDOM % 10000))}
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=${DEVICES:-1}"

if [[ $dry_run ]]; then
  printf 'export JAX_PLATFORMS=%q XLA_FLAGS=%q\n' "$JAX_PLATFORMS" "$XLA_FLAGS"
  for ((i = 0; i < processes; i++)); do
    printf '%q ' "$python" -m cocosnet_jax.main "$@" --distributed="localhost:$port,$processes,$i"
    printf '&\n'
  done
  exit
fi
pids=()
# The terminal sends Ctrl-C to the processes, too. SIGTERM to one process stops all of them.
trap 'kill -TERM "${pids[0]}" 2>/dev/null || true' TERM
trap '' INT
for ((i = 0; i < processes; i++)); do
  "$python" -m cocosnet_jax.main "$@" --distributed="localhost:$port,$processes,$i" &
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do
  wait "$pid" || status=$?
  # A trapped signal interrupts `wait`.
  while kill -0 "$pid" 2>/dev/null; do wait "$pid" || status=$?; done
done
exit "$status"
