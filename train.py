"""Train a SqueezeNet.

python train.py --data_path ./data                                          # the default recipe, on CIFAR-10
python train.py --config config/squeezenet_digits.yaml                      # two minutes on a laptop
python train.py --config config/squeezenet_cifar10_small.yaml --epochs 5 --warmup_epochs 1 --output_path runs/try
"""

import sys

from src.cli import signals
from src.cli.errors import run


def main() -> None:
    signals.watch()
    # Here, so that Ctrl-C is one line while MindSpore is imported, which takes seconds.
    from src.config import parse_train

    config = parse_train(sys.argv[1:], "Train a SqueezeNet.")

    from src.training.run import train  # After the arguments are checked.

    result = train(config)
    for split in ("validation", "test"):
        if result[split]:
            print(f"{split} accuracy {result[split]['accuracy']:.2%} ({result['checkpoint']})")
    rate = f"{result['images_per_second'] or 0:.0f} images/s"
    if result["devices"] > 1:
        rate += f" ({result['images_per_second_per_device'] or 0:.0f} on each of {result['devices']} devices)"
    print(
        f"{rate}, {result['seconds']:.0f} s, "
        f"peak memory {result['peak_memory_mb']:.0f} MiB; all of it in {config.run.output_path}"
    )
    print(f"next: python infer.py --ckpt_path {config.run.output_path}/{result['checkpoint']} --images FILE_OR_FOLDER")


if __name__ == "__main__":
    run(main)
