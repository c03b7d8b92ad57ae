#!/usr/bin/env bash
# Run one of the project's programs on a kind of device, in the foreground, and exit with its status. For the run_*.sh
# scripts, whose head comment --help shows.
#
#   run_program.sh SCRIPT PROGRAM DEVICE [flags of the program]
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

[ $# -ge 3 ] || { usage "${BASH_SOURCE[0]}" && exit 2; }
script=$1 program=$2 device=$3
shift 3
if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    usage "$script"
    exit
fi
python=$(find_python)
"$python" -c 'import importlib.metadata as m; m.version("mindspore")' 2>/dev/null ||
    fail "$python has no MindSpore: run pip install -r requirements.txt, or bash scripts/quickstart.sh"
exec "$python" "$root/$program" --device_target "$device" --strict_device "$@"
