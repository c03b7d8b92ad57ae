"""Classify images: the most likely classes with their probabilities, as a table, as JSON, and as a gallery.

    python infer.py --images photo.jpg more_photos/ --ckpt_path runs/squeezenet_cifar10/best.ckpt
    python infer.py --images photo.jpg --model_path squeezenet.onnx --top_k 3 --output_path out

Exits with 0, or with 1 when some files were no images and were left out.
"""

import sys

from src.config import DeviceConfig, InferConfig, parse
from src.errors import run


def main() -> int:
    config, device = parse(sys.argv[1:], "Classify images.", InferConfig, DeviceConfig)

    from src.inference import infer  # After the arguments are checked.

    results, skipped = infer(config, device)
    width = min(60, max(len(result["file"]) for result in results))
    for result in results:
        classes = ", ".join(f"{entry['name']} {entry['probability']:.1%}" for entry in result["top_k"])
        print(f"{result['file']:<{width}}  {classes}")
    print(f"{len(results)} images; predictions.json and gallery: {config.output_path}")
    return 1 if skipped else 0


if __name__ == "__main__":
    run(main)
