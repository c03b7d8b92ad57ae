#!/usr/bin/env bash
# Convert an exported model for an Ascend 310, run it there on all images of a data set, and print its accuracy.
# Not run on this hardware: it needs CANN and MindSpore Lite, see docs/DEPLOYMENT.md. Each command is printed first.
#
#   bash scripts/run_infer_310.sh MODEL [DATASET] DATA_PATH [DEVICE_ID] [flags of eval.py]
#   bash scripts/run_infer_310.sh best.mindir cifar10 ./data 0
#   CONFIG=ascend.cfg bash scripts/run_infer_310.sh best.onnx ./imagenet 0 --batch_size 8
#
# MODEL is a .mindir or .onnx of export.py with its .json next to it, and becomes MODEL_310.mindir. An .air is converted
# by atc, for the chip in $SOC_VERSION (Ascend310P3), to an .om for AscendCL programs. DATASET is that of training unless
# given. $CONFIG is a configuration of converter_lite, $CONVERTER the program itself.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

show_and_run() {
    printf '+' && printf ' %q' "$@" && printf '\n'
    "$@"
}

need() {
    command -v "$1" >/dev/null || fail "$1: not found; $2"
}

case "${1:-}" in
    -h | --help) usage "$0" && exit 0 ;;
    *.mindir | *.onnx | *.air) model=$1 && shift ;;
    *) fail "a model is missing: MODEL [DATASET] DATA_PATH [DEVICE_ID], with a .mindir, .onnx or .air; --help says more" ;;
esac
[ -f "$model" ] || fail "$model: there is no such model; export.py writes one"
stem=${model%.*}
if [ "${model##*.}" = air ]; then
    need atc "it comes with CANN: source its set_env.sh"
    show_and_run atc --framework=1 "--model=$model" "--output=$stem" "--soc_version=${SOC_VERSION:-Ascend310P3}"
    echo "$stem.om: runs in AscendCL programs; for accuracy, export MINDIR and run this script on that"
    exit 0
fi
flags=()
case "${1:-}" in cifar10 | imagenet) flags+=(--dataset "$1") && shift ;; esac
[[ -n ${1:-} && $1 != -* ]] || fail "a folder of data is missing: MODEL [DATASET] DATA_PATH [DEVICE_ID]"
flags+=(--data_path "$1") && shift
case "${1:-}" in cifar10 | imagenet) flags+=(--dataset "$1") && shift ;; esac
device_id=0
[[ ! ${1:-} =~ ^[0-9]+$ ]] || { device_id=$1 && shift; }
[ -f "$model.json" ] || fail "$model.json: not found; keep next to the model the file that export.py wrote with it"

converter=${CONVERTER:-converter_lite}
need "$converter" "it comes with MindSpore Lite (https://www.mindspore.cn/lite); put its folder on PATH"
format=$(tr '[:lower:]' '[:upper:]' <<<"${model##*.}")
show_and_run "$converter" "--fmk=$format" --saveType=MINDIR --optimize=ascend_oriented "--modelFile=$model" \
    "--outputFile=${stem}_310" ${CONFIG:+"--configFile=$CONFIG"}
show_and_run cp "$model.json" "${stem}_310.mindir.json"
show_and_run "$(find_python)" "$root/eval.py" --model_path "${stem}_310.mindir" --runtime lite --device_target Ascend \
    --device_id "$device_id" "${flags[@]}" "$@"
