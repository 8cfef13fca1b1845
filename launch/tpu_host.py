"""Scripts that `launch.tpu_vm` runs on the hosts of a TPU slice, in bash, in the user's home.

The project is in cocosnet_jax/, with these files of the run:

run.sh      what is run
run.log     what it prints
run.pid     its process group
run.status  its exit status, once it has ended
run.stop    exists if it was to end
"""

import shlex
from collections.abc import Sequence

# Exit status of `start` if another run is going on.
OTHER_RUN = 3

STOP = """\
cd cocosnet_jax 2>/dev/null || exit 0
pid=$(cat run.pid) || exit 0
touch run.stop
kill -TERM -- "-$pid" 2>/dev/null || exit 0
for _ in $(seq 150); do
  kill -0 "$pid" 2>/dev/null || exit 0
  sleep 2
done
kill -KILL -- "-$pid" 2>/dev/null || true
"""

FOLLOW = """\
cd cocosnet_jax || exit
tail --lines=50 --follow=name --retry --pid="$(cat run.pid)" run.log
"""

# Prints `run: ` and `none`, `going on` or the exit status: 130 if the run was stopped, 1 if it has
# vanished, as after a reboot.
STATUS = """\
cd cocosnet_jax 2>/dev/null || true
if [ ! -f run.pid ]; then
  echo 'run: none'
elif kill -0 "$(cat run.pid)" 2>/dev/null; then
  echo 'run: going on'
elif [ -f run.stop ]; then
  echo 'run: 130'
else
  echo "run: $(cat run.status 2>/dev/null || echo 1)"
fi
"""


def install(data: str) -> str:
    """Unpacks cocosnet_jax.tar.gz and installs it; copies data from a bucket, unless empty.

    The Python of the slice's runtime may be older than the project needs; uv brings one.
    """
    copy = f"gcloud storage rsync --recursive {shlex.quote(data)} data\n" if data else ""
    return f"""\
set -e
mkdir -p cocosnet_jax
tar -xzf cocosnet_jax.tar.gz -C cocosnet_jax
cd cocosnet_jax
{copy}python=python3
if [ ! -x .venv/bin/python ] && ! python3 -c '
import ensurepip, sys, venv
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; then
  python3 -m pip install --quiet --user uv==0.13.9
  python3 -m uv python install --quiet 3.11
  python=$(python3 -m uv python find 3.11)
fi
make install PYTHON="$python"
.venv/bin/python -m pip install --quiet 'jax[tpu]' -c requirements.txt
"""


def start(arguments: Sequence[str], variables: Sequence[str]) -> str:
    """Starts a run, which goes on after the script; leaves it alone if it is going on already.

    Args:
      arguments: of `cocosnet_jax.main`.
      variables: of its environment, NAME=VALUE.
    """
    exports = "".join(f"export {shlex.quote(entry)}\n" for entry in variables)
    return f"""\
cd cocosnet_jax || exit
cat > run.new <<'RUN'
trap : TERM
{exports}.venv/bin/python -m cocosnet_jax.main --distributed=auto {shlex.join(arguments)}
echo "$?" > run.status
RUN
if [ -f run.pid ] && kill -0 "$(cat run.pid)" 2>/dev/null; then
  cmp -s run.new run.sh && exit
  echo 'error: another run is going on here; stop it first' >&2
  exit {OTHER_RUN}
fi
mv run.new run.sh
rm -f run.status run.stop
setsid nohup bash run.sh >> run.log 2>&1 < /dev/null &
echo "$!" > run.pid
"""
