#!/usr/bin/env bash
# Trains on a Cloud TPU slice: copies the committed project to every host, installs it and runs it.
#
#   launch/tpu_vm.sh --tpu=NAME --zone=ZONE [--project=PROJECT] -- \
#       --config=configs/ade20k.py --workdir=gs://BUCKET/ade20k \
#       --config.data.source=/DISK/ADEChallengeData2016 --config.vgg.weights=/DISK/vgg19.pth \
#       --config.data.exemplar_list=/DISK/train.txt \
#       --config.data.validation_exemplar_list=/DISK/test.txt
#
# Arguments after `--` are passed to cocosnet_jax.main on every host. All hosts must have access to
# the workdir (gs://...) and mount /DISK. Run the same command again to resume. Requires `gcloud`,
# signed in.
set -euo pipefail

usage() {
  sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

tpu="" zone="" project=()
while (($#)); do
  case $1 in
    --tpu=*) tpu=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --project=*) project=("$1") ;;
    --)
      shift
      break
      ;;
    *) usage ;;
  esac
  shift
done
[[ $tpu && $zone && $# -gt 0 ]] || usage
cd "$(dirname "$0")/.."

# For macOS: its bash treats empty arrays as unset, and its mktemp has no long options.
target=(--zone="$zone" ${project[@]+"${project[@]}"} --worker=all)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
archive=$folder/cocosnet_jax.tar.gz
if [[ $(git status --porcelain --untracked-files=no) ]]; then
  echo "note: uncommitted changes are not copied:" >&2
  git status --short --untracked-files=no >&2
fi
git archive --format=tar.gz --output="$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$tpu:cocosnet_jax.tar.gz" "${target[@]}"

# `jax[tpu]` adds libtpu to the pinned jax.
printf -v arguments ' %q' "$@"
gcloud compute tpus tpu-vm ssh "$tpu" "${target[@]}" --command="
  set -e
  mkdir -p cocosnet_jax && tar -xzf cocosnet_jax.tar.gz -C cocosnet_jax && cd cocosnet_jax
  make install
  .venv/bin/python -m pip install --quiet 'jax[tpu]' -c requirements.txt
  .venv/bin/python -m cocosnet_jax.main --distributed=auto$arguments"
