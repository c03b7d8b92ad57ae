#!/usr/bin/env bash
# Try the project on an Ascend host for the first time, and write a report to send to its maintainers.
#
#   source /usr/local/Ascend/ascend-toolkit/set_env.sh       # CANN's, wherever it is; docs/ASCEND_HOST.md
#   bash scripts/first_run_ascend.sh                         # a quarter of an hour or so; no data set is needed
#   bash scripts/first_run_ascend.sh --output_path FOLDER    # a new folder; default: runs/first_run_<time>
#   bash scripts/first_run_ascend.sh --device_target CPU     # those of the checks that need no NPU
#
# Every check says what it should print. One that fails does not keep the others from running. FOLDER/report.md has all
# that they printed beside what was expected. The exit status is 1 when a check has failed.
set -uo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

target=Ascend folder=runs/first_run_$(date +%Y%m%d-%H%M%S)
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) usage "${BASH_SOURCE[0]}" && exit ;;
        --device_target | --output_path) [ $# -gt 1 ] || fail "$1: a value is missing" ;;
        *) fail "unexpected argument '$1'; --help shows what there is" ;;
    esac
    if [ "$1" = --output_path ]; then folder=$2; else target=$2; fi
    shift 2
done
case $target in
    Ascend | CPU) ;;
    *) fail "device_target: '$target' is not allowed; it takes Ascend or CPU" ;;
esac
[ ! -e "$folder" ] || fail "$folder: already exists; give another --output_path"
python=$(find_python) || exit 2
mkdir -p "$folder/logs" || fail "$folder: cannot be made; give another --output_path"
folder=$(cd "$folder" && pwd)
[[ $python != */* || $python == /* ]] || python=$PWD/$python
cd "$root" || exit 2

number=0 failed=0 left_out=0 summary='' fence='```'
sections=$folder/logs/sections.md
: >"$sections"

# Print a command so that it can be pasted.
shown() {
    local word
    for word in "$@"; do
        if [[ $word == *$'\n'* ]]; then printf "'%s' " "$word"; else printf '%q ' "$word"; fi
    done
}

# check TITLE EXPECTED PATTERN COMMAND...: run a command; it fails by its exit status, or when no line has the pattern.
check() {
    local title=$1 expected=$2 pattern=$3 start=$SECONDS outcome=ok status log
    shift 3
    number=$((number + 1)) log=$folder/logs/$number.log
    printf '%2d. %s ... ' "$number" "$title"
    "$@" >"$log" 2>&1 </dev/null
    status=$?
    if [ $status -ne 0 ]; then
        outcome="FAILED, exit status $status"
    elif ! grep -Eq -- "$pattern" "$log"; then
        outcome="FAILED, not what was expected"
    fi
    [ "$outcome" = ok ] || failed=$((failed + 1))
    echo "$outcome ($((SECONDS - start)) s)"
    summary+="| $number | $title | $outcome | $((SECONDS - start)) |"$'\n'
    {
        printf '\n## %s. %s: %s\n\nExpected: %s\n\n%sbash\n' "$number" "$title" "$outcome" "$expected" "$fence"
        shown "$@"
        printf '\n%s\n\n%stext\n' "$fence" "$fence"
        tail -n 80 "$log" | cut -c 1-400
        printf '%s\n' "$fence"
    } >>"$sections"
}

# skip TITLE REASON
skip() {
    number=$((number + 1)) left_out=$((left_out + 1))
    printf '%2d. %s ... left out: %s\n' "$number" "$1" "$2"
    summary+="| $number | $1 | left out: $2 | |"$'\n'
}

on_npu() {
    if [ "$target" = Ascend ]; then check "$@"; else skip "$1" "needs an NPU"; fi
}

write_report() {
    {
        printf '# First run on %s\n\n' "$target"
        printf -- '- %s, %s cores, %s\n' "$(uname -srm)" "$(nproc)" "$(date -u +%FT%TZ)"
        printf -- '- %s, MindSpore %s, numpy %s\n' "$("$python" --version 2>&1)" \
            "$("$python" -c 'import importlib.metadata as m; print(m.version("mindspore"))' 2>&1 | tail -n 1)" \
            "$("$python" -c 'import importlib.metadata as m; print(m.version("numpy"))' 2>&1 | tail -n 1)"
        printf -- '- the project at %s\n' "$(git rev-parse --short HEAD 2>/dev/null || echo 'an unknown commit')"
        printf '\n%stext\n%s\n%s\n' "$fence" "$(env | grep -E '^(ASCEND|HCCL|RANK|DEVICE_ID|MS_|GLOG)' | sort)" "$fence"
        printf '\n| | check | outcome | seconds |\n|---|---|---|---|\n%s' "$summary"
        cat "$sections"
    } >"$folder/report.md"
    printf '\n%s checks, %s failed, %s left out; the report to send: %s\n' "$number" "$failed" "$left_out" \
        "$folder/report.md"
}
trap write_report EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The program parts of the checks. sys.argv[1] is the device.
device_code='
import sys
import src
from src.devices.device import select_device
from src.keys import DeviceConfig
precision = sys.argv[2] if len(sys.argv) > 2 else "default"
select_device(DeviceConfig(device_target=sys.argv[1], strict_device=True, precision=precision))
'
run_check_code='
import sys
import mindspore
mindspore.set_device(sys.argv[1])
mindspore.run_check()
'
cann_code='
import te, hccl
from te import version
from hccl import sys_version
print("te", version.version, "hccl", sys_version.__sys_version__)
'
convolution_code=$device_code'
import numpy as np
from mindspore import Tensor, ops
random = np.random.RandomState(0)
x, w = random.standard_normal((4, 64, 16, 16)), random.standard_normal((64, 64, 3, 3))
x, w = x.astype(np.float32), w.astype(np.float32)
windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), (3, 3), (2, 3))
exact = np.einsum("nchwij,ocij->nohw", windows, w.astype(np.float64), optimize=True)
found = ops.Conv2D(64, 3)(Tensor(x), Tensor(w)).asnumpy()
difference = np.abs(found - exact).max() / np.abs(exact).max()
print(f"precision {precision}: relative difference from float64 {difference:.1e}")
assert difference < (1e-5 if precision == "high" else 1e-2)
'
dropout_code=$device_code'
import hashlib
import mindspore as ms
import numpy as np
from src.network.dropout import Dropout
dropout = Dropout(0.5).seeded(1).set_train(True)
ones = ms.Tensor(np.ones((32, 512, 13, 13), np.float32))
first, second = (dropout(ones).asnumpy() > 0 for _ in range(2))
dropout.step.set_data(ms.Tensor(0, ms.int32))
again = dropout(ones).asnumpy() > 0
digest = hashlib.sha256(np.packbits(first).tobytes()).hexdigest()[:16]
print(f"kept {first.mean():.4f} and {second.mean():.4f}; first mask {digest}")
assert abs(first.mean() - 0.5) < 0.01 and abs(second.mean() - 0.5) < 0.01
assert (first == again).all() and 0.49 < (first == second).mean() < 0.51
'
devices_code='
import sys
from src.launching.cluster import visible_devices
print(2 if sys.argv[1] == "CPU" else visible_devices(sys.argv[1])[0])
'

digits=(--config config/squeezenet_digits.yaml --device_target "$target" --strict_device true --scalars none)
# 80 images: two steps of 32.
short=("${digits[@]}" --train_images 80 --epochs 1 --warmup_epochs 0)

# Train until Ctrl-C comes.
interrupted() {
    timeout --preserve-status --signal INT --kill-after 120 180 \
        "$python" train.py "${digits[@]}" --epochs 5000 --output_path "$folder/interrupted"
    local status=$?
    echo "exit status $status"
    ls -l "$folder/interrupted/checkpoints"
    [ $status -eq 130 ]
}

# Print how often each kernel is in the graphs of a short training, by MindSpore's log.
kernels() {
    local log=$folder/logs/graphs.log list=$folder/logs/kernels.txt
    GLOG_v=3 MS_SUBMODULE_LOG_v='{DEVICE:1}' \
        "$python" train.py "${short[@]}" --output_path "$folder/kernels" 2>"$log" || return
    sed -n 's/.*GenerateKernelMod\] kernel opname:\([A-Za-z0-9_]*\), kernel type:\([a-z_]*\).*/\1 \2/p' "$log" |
        sort | uniq -c | sort -rn >"$list"
    cat "$list"
    awk '{n += $1} END {print n + 0, "kernels in all"}' "$list"
    ! grep -Eq 'RightShift|LeftShift|PadV3|aicpu_kernel|cpu_kernel|host_kernel' "$list"
}

on_npu "The NPUs" "a table of NPUs, each with Health OK" "OK" npu-smi info
on_npu "CANN's Python packages" "versions of te and hccl that docs/ASCEND_HOST.md lists for this MindSpore" \
    "^te .* hccl " "$python" -c "$cann_code"
check "MindSpore" "The result of multiplication calculation is correct, ... on platform [$target] successfully!" \
    "platform \[$target\] successfully" "$python" -c "$run_check_code" "$target"
check "The device, as the project finds it" "device: $target" "^device: $target" "$python" -c "$device_code" "$target"
check "A convolution, default precision" "below 1e-2; below 1e-5 where it is computed in float32, 1e-4 to 4e-4 where \
images and weights are rounded to HF32 or float16 before" "relative difference" "$python" -c "$convolution_code" "$target" default
check "A convolution, --precision high" "below 1e-5, which is float32" "relative difference" \
    "$python" -c "$convolution_code" "$target" high
check "Dropout's masks" "both times kept 0.50, and the same mask for the same step. A CPU's first mask is \
73c3ccdc83ce5b98; another is right where the device draws the masks by its own generator" "kept 0\.[45]" \
    "$python" -c "$dropout_code" "$target"
check "Two steps of training, in sink mode on an NPU" "a line that ends with images/s, seconds and memory" "images/s" \
    "$python" train.py "${short[@]}" --output_path "$folder/two_steps"
on_npu "Two steps in mixed precision O2, loss scale 1024" "the same" "images/s" \
    "$python" train.py "${short[@]}" --amp_level O2 --loss_scale 1024 --output_path "$folder/two_steps_o2"
on_npu "The digits' recipe" "test accuracy 95% or more" "^test accuracy (9[5-9]|100)" \
    "$python" train.py "${digits[@]}" --output_path "$folder/digits"
checkpoint=$folder/digits/best.ckpt
[ -f "$checkpoint" ] || checkpoint=$folder/two_steps/best.ckpt
check "Evaluation" "top-1; after the digits' recipe the test accuracy that it ended with" "top-1" \
    "$python" eval.py --ckpt_path "$checkpoint" --device_target "$target" --output_path "$folder/evaluation"
check "Export to MINDIR" "loaded and run: largest difference ..., below 1e-2" "loaded and run: largest difference" \
    "$python" export.py --ckpt_path "$checkpoint" --file_format MINDIR --file_name "$folder/squeezenet" \
    --device_target "$target"
check "Export to ONNX" "loaded and run: largest difference ..., below 1e-2" "loaded and run: largest difference" \
    "$python" export.py --ckpt_path "$checkpoint" --file_format ONNX --file_name "$folder/squeezenet" \
    --device_target "$target"
on_npu "Kernels of the graphs" "no kernel of the AI CPU; docs/ASCEND.md has the counts of a training step that \
MindSpore's backend gives without an NPU" "kernels in all" kernels
on_npu "Ctrl-C after three minutes of training" "exit status 130, and a checkpoint" "exit status 130" interrupted
devices=$("$python" -c "$devices_code" "$target" 2>/dev/null | tail -n 1)
if [[ $devices =~ ^[0-9]+$ && $devices -gt 1 ]]; then
    check "Training on $devices devices" "a line that ends with images/s on each of $devices devices" \
        "on each of $devices devices" \
        env PYTHON="$python" bash "scripts/run_distribute_train_$(tr '[:upper:]' '[:lower:]' <<<"$target").sh" \
        "${short[@]:0:2}" --scalars none --epochs 1 --warmup_epochs 0 --train_images 160 --batch_size 4 \
        --log_dir "$folder/logs/distributed" --output_path "$folder/distributed"
else
    skip "Training on several devices" "one device"
fi
[ $failed -eq 0 ]
