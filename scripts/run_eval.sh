#!/usr/bin/env bash
# The model zoo's name for run_eval_ascend.sh, which takes the zoo's arguments too.
set -euo pipefail
exec bash "$(dirname "$0")/run_eval_ascend.sh" "$@"
