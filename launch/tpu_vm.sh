#!/usr/bin/env bash
# Trains on a Cloud TPU slice: `python -m launch.tpu_vm run`, with the project's Python.
#
#   launch/tpu_vm.sh --tpu=NAME --zone=ZONE --type=v5litepod-16 [--data=gs://...] -- \
#       --config=configs/ade20k.py --workdir=gs://BUCKET/ade20k ...
#
# `--help` shows all flags and the other commands.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-.venv/bin/python}" -m launch.tpu_vm run "$@"
