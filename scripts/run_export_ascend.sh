#!/usr/bin/env bash
# Export a checkpoint on one Ascend NPU. It stays in the foreground and exits with the status of export.py.
#
#   bash scripts/run_export_ascend.sh --ckpt_path runs/squeezenet_cifar10/squeezenet.ckpt --file_format MINDIR
#   bash scripts/run_export_ascend.sh --ckpt_path runs/squeezenet_cifar10/squeezenet.ckpt --file_format ONNX
#
# All flags are those of export.py (python export.py --help; docs/CONFIGURATION.md).
set -euo pipefail
exec bash "$(dirname "$0")/run_program.sh" "$0" export.py Ascend "$@"
