#!/usr/bin/env bash
# From a fresh machine with Python 3.9 to 3.12 to a trained SqueezeNet: sets up .venv, trains on scikit-learn's
# handwritten digits (no download), evaluates, predicts and exports. Under five minutes on two CPU cores.
#
#   bash scripts/quickstart.sh
#
# What it makes lies in .venv/ and runs/quickstart/; running it again replaces that run.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

case "${1:-}" in
    "") ;;
    -h | --help) usage "${BASH_SOURCE[0]}" && exit ;;
    *) fail "unexpected argument '$1': quickstart.sh takes none" ;;
esac
cd "$root"
set_up_environment requirements.txt
run=runs/quickstart

step() {
    printf '\n$ python %s\n' "$*"
    "$python" "$@"
}
step train.py --config config/squeezenet_digits.yaml --output_path $run --overwrite
step eval.py --ckpt_path $run/best.ckpt --output_path $run/evaluation
step infer.py --ckpt_path $run/best.ckpt --images docs/samples/digits --top_k 3 --output_path $run/predictions
step export.py --ckpt_path $run/best.ckpt --file_format MINDIR
step export.py --ckpt_path $run/best.ckpt --file_format ONNX --dynamic_batch

cat <<END

Done. Pictures to look at:
  $root/$run/training_batch.png                training images
  $root/$run/curves.png                        loss and accuracy
  $root/$run/evaluation/confusion_matrix.png   what is taken for what
  $root/$run/evaluation/worst_mistakes.png     the mistakes, if there were any
  $root/$run/predictions/predictions.png       predictions for docs/samples/digits

Next, CIFAR-10 (a download of 170 MB, then an hour or so on two CPU cores):
  source .venv/bin/activate
  python train.py --config config/squeezenet_cifar10_small.yaml --data_path ./data --download
END
