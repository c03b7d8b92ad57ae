#!/usr/bin/env bash
# Run one of the project's programs on a kind of device, in the foreground, and exit with its status. For the run_*.sh
# scripts, whose head comment --help shows.
#
#   run_program.sh SCRIPT PROGRAM DEVICE [flags of the program]     train.py, eval.py or export.py
#   run_program.sh SCRIPT distributed DEVICE [flags]                train.py on many devices, by src/launching
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

[ $# -ge 3 ] || { usage "${BASH_SOURCE[0]}" && exit 2; }
script=$1 program=$2 device=$3
shift 3
help=
if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    help=--help
    usage "$script"
    [ "$program" = distributed ] || exit 0
fi
python=$(find_python)
"$python" -c 'import importlib.metadata as m; m.version("mindspore")' 2>/dev/null ||
    fail "$python has no MindSpore: run pip install -r requirements.txt, or bash scripts/quickstart.sh"
if [ "$program" != distributed ]; then
    exec "$python" "$root/$program" --device_target "$device" --strict_device "$@"
fi
# From the project's folder, where -m finds src; paths are still those of the folder that the user is in.
start=$PWD
[[ $python != */* || $python == /* ]] || python=$start/$python
cd "$root"
exec "$python" -m src.launching.launch --start_folder "$start" --device_target "$device" ${help:+"$help"} "$@"
