#!/usr/bin/env bash
# Train with several workers on the CPU, of one host or of a cluster. Without arguments: two workers, the default
# CIFAR-10 recipe, data in ./data.
#
#   bash scripts/run_distribute_train_cpu.sh --config config/squeezenet_digits.yaml
#   bash scripts/run_distribute_train_cpu.sh --devices 4 --config config/squeezenet_cifar10_small.yaml --data_path ./data
#   bash scripts/run_distribute_train_cpu.sh --nnodes 2 --node_rank 0 --master_addr 192.0.2.10    # on host 0
#   bash scripts/run_distribute_train_cpu.sh --nnodes 2 --node_rank 1 --master_addr 192.0.2.10    # on host 1
#
# It stays in the foreground and exits with the status of the job. docs/DISTRIBUTED.md has more.
set -euo pipefail
exec bash "$(dirname "$0")/run_program.sh" "$0" distributed CPU "$@"
