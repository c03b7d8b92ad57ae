#!/usr/bin/env bash
# Run one of the project's programs on a kind of device, in the foreground, and exit with its status. For the run_*.sh
# scripts, whose head comment --help shows.
#
#   run_program.sh SCRIPT PROGRAM DEVICE [flags of the program]     train.py, eval.py or export.py
#   run_program.sh SCRIPT distributed DEVICE [flags]                train.py on many devices, by src/launching
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

# The arguments of the model zoo's scripts as flags, in `translated`:
#   train.py, eval.py: NET DATASET DEVICE_ID DATA [CKPT]; distributed: NET DATASET [RANK_TABLE] DATA [CKPT]
translate_zoo_arguments() {
    local program=$1 arguments=() argument
    shift
    for argument in "$@"; do # A rank table says what the launcher finds out by itself.
        [[ $program == distributed && $argument == *.json ]] || arguments+=("$argument")
    done
    [ "$program" != distributed ] || arguments=("${arguments[@]:0:2}" "" "${arguments[@]:2}")
    local net=${arguments[0]} dataset=${arguments[1]:-} device=${arguments[2]:-} data=${arguments[3]:-}
    local checkpoint=${arguments[4]:-}
    [[ -n $data && ${#arguments[@]} -le 5 ]] ||
        fail "the model zoo's arguments are NET DATASET DEVICE_ID DATA [CKPT]; --help shows this project's flags"
    case "$net $dataset" in
        "squeezenet cifar10") config=squeezenet_cifar10_zoo ;;
        "squeezenet_residual cifar10") config=squeezenet_residual_cifar10_zoo ;;
        "squeezenet imagenet") config=squeezenet_imagenet_v1_0 ;;
        "squeezenet_residual imagenet") config=squeezenet_imagenet_simple_bypass ;;
        *) fail "$net $dataset: the model zoo has squeezenet and squeezenet_residual on cifar10 and imagenet" ;;
    esac
    translated=(--config "$root/config/$config.yaml" --data_path "$data")
    if [ "$program" = eval.py ]; then
        [ -n "$checkpoint" ] || fail "a checkpoint is missing: NET DATASET DEVICE_ID DATA CKPT"
        translated=(--ckpt_path "$checkpoint" --data_path "$data")
    elif [ -n "$checkpoint" ]; then
        translated+=(--pretrained "$checkpoint")
    fi
    [ -z "$device" ] || translated+=(--device_id "$device")
    printf 'in this project: bash %s' "$script" >&2
    printf ' %q' "${translated[@]}" >&2
    printf '\n' >&2
}

[ $# -ge 3 ] || { usage "${BASH_SOURCE[0]}" && exit 2; }
script=$1 program=$2 device=$3
shift 3
help=
if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    help=--help
    usage "$script"
    [ "$program" = distributed ] || exit 0
fi
case " ${1:-} ${2:-} " in # A path such as runs/squeezenet_digits/best.ckpt is no network's name.
    " -"*) ;;
    *" squeezenet "* | *" squeezenet_residual "*) translate_zoo_arguments "$program" "$@" && set -- "${translated[@]}" ;;
esac
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
