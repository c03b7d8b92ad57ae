#!/usr/bin/env bash
# From a fresh machine with Python 3.9 to 3.12 to a trained SqueezeNet: sets up .venv, trains on scikit-learn's
# handwritten digits (no download), evaluates, predicts and exports, and classifies photographs with a net that comes
# with the project. Under five minutes on two CPU cores.
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
step infer.py --ckpt_path results/squeezenet_cifar10_paper/best.ckpt --images docs/samples/photographs --cam --top_k 3 \
    --output_path $run/photographs

cat <<END

Done. Pictures to look at:
  $root/$run/photographs/predictions.png       photographs, and where in them each class was seen
  $root/$run/predictions/predictions.png       digits
  $root/$run/training_batch.png                training images
  $root/$run/curves.png                        loss and accuracy
  $root/$run/evaluation/confusion_matrix.png   what is taken for what
  $root/$run/evaluation/worst_mistakes.png     the mistakes, if there were any

Next (first, in this shell: source $(dirname "$python")/activate):
  python infer.py YOUR_PHOTOGRAPH.jpg --ckpt_path results/squeezenet_cifar10_paper/best.ckpt --output_path predictions
  python train.py --config config/squeezenet_cifar10_paper.yaml --data_path ./data --download
The second trains on CIFAR-10: it downloads 170 MB, and takes an hour or two on two CPU cores.
END
