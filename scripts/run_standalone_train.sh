#!/usr/bin/env bash
# The model zoo's name for run_standalone_train_ascend.sh, which takes the zoo's arguments too.
set -euo pipefail
exec bash "$(dirname "$0")/run_standalone_train_ascend.sh" "$@"
