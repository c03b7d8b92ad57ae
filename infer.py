"""Classify images: the most likely classes with their probabilities, as a table, as JSON, and as a gallery.

    python infer.py --images photo.jpg more_photos/ --ckpt_path runs/squeezenet_cifar10/best.ckpt
    python infer.py --images photo.jpg --model_path squeezenet.onnx --top_k 3 --output_path out
    python infer.py --images photos/ --ckpt_path best.ckpt --features --cam    # beside the classes

Exits with 0; with 1 when some files were no images, each named on stderr, and the others were classified; with 2 when
there was nothing to classify.
"""

import sys

from src.cli.errors import run


def main() -> int:
    # Here, so that Ctrl-C is one line while MindSpore is imported, which takes seconds.
    from src.config import DeviceConfig, parse
    from src.inference.config import MODELS_AND_IMAGES, InferConfig

    config, device = parse(sys.argv[1:], "Classify images.", InferConfig, DeviceConfig, positional=MODELS_AND_IMAGES)

    from src.dataset.source import printable  # After the arguments are checked.
    from src.inference.classify import infer

    results, skipped = infer(config, device)
    names = [printable(result["file"]) for result in results]
    width = min(60, max(map(len, names)))
    for name, result in zip(names, results):
        classes = ", ".join(f"{printable(entry['name'])} {entry['probability']:.1%}" for entry in result["top_k"])
        print(f"{name:<{width}}  {classes}")
    print(f"{len(results)} images; predictions.json and gallery: {config.output_path}")
    return 1 if skipped else 0


if __name__ == "__main__":
    run(main)
