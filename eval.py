"""Evaluate a checkpoint or an exported model: accuracy, loss, accuracy per class, confusion matrix, worst mistakes.

python eval.py runs/squeezenet_digits
python eval.py --ckpt_path runs/squeezenet_cifar10/squeezenet.ckpt --data_path ./data --batch_size 100
python eval.py --model_path squeezenet.onnx --data_path ./data
"""

import sys

from src.cli.errors import run

# Of more classes than fit on a screen or two, these many are shown.
MOST_CLASSES, FEWEST = 100, 10


def main() -> None:
    # Here, so that Ctrl-C is one line while MindSpore is imported, which takes seconds.
    from src.config import DeviceConfig, parse
    from src.inference.config import MODELS, EvalConfig

    config, device = parse(sys.argv[1:], "Evaluate a model.", EvalConfig, DeviceConfig, positional=MODELS)

    from src.inference.evaluation import evaluate_model  # After the arguments are checked.
    from src.inference.metrics import describe

    result = evaluate_model(config, device)
    classes = result["accuracy_per_class"]
    print(f"{result['dataset']} {result['split']}, {result['images']:,} images: {describe(result, len(classes))}")
    shown = list(classes.items())
    if len(shown) > MOST_CLASSES:
        shown = sorted((c for c in shown if c[1] is not None), key=lambda c: c[1])[:FEWEST]
        print(f"of {len(classes):,} classes (all of them in result.json) the {len(shown)} that did worst:")
    for name, accuracy in shown:
        print(f"  {name:<20} " + ("no images" if accuracy is None else f"{accuracy:.2%}"))
    print(f"confusion matrix, worst mistakes and result.json: {result['output_path']}")


if __name__ == "__main__":
    run(main)
