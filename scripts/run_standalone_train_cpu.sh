#!/usr/bin/env bash
# Train on the CPU. It stays in the foreground and exits with the status of train.py.
#
#   bash scripts/run_standalone_train_cpu.sh --config config/squeezenet_cifar10_small.yaml --data_path ./data
#   bash scripts/run_standalone_train_cpu.sh --data_path ./data --pretrained other.ckpt --output_path runs/second
#
# All flags are those of train.py (python train.py --help; docs/CONFIGURATION.md).
set -euo pipefail
exec bash "$(dirname "$0")/run_program.sh" "$0" train.py CPU "$@"
