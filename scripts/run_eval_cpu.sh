#!/usr/bin/env bash
# Evaluate a checkpoint on the CPU. It stays in the foreground and exits with the status of eval.py.
#
#   bash scripts/run_eval_cpu.sh --ckpt_path runs/squeezenet_cifar10/squeezenet.ckpt --data_path ./data
#
# All flags are those of eval.py (python eval.py --help; docs/CONFIGURATION.md).
set -euo pipefail
exec bash "$(dirname "$0")/run_program.sh" "$0" eval.py CPU "$@"
