#!/usr/bin/env bash
# Train on one GPU. It stays in the foreground and exits with the status of train.py.
#
#   bash scripts/run_standalone_train_gpu.sh --config config/squeezenet_cifar10.yaml --data_path ./data
#   bash scripts/run_standalone_train_gpu.sh --data_path ./data --pretrained other.ckpt --output_path runs/second
#   bash scripts/run_standalone_train_gpu.sh --data_path ./data --device_id 1 --amp_level O2
#
# All flags are those of train.py (python train.py --help; docs/CONFIGURATION.md).
set -euo pipefail
exec bash "$(dirname "$0")/run_program.sh" "$0" train.py GPU "$@"
