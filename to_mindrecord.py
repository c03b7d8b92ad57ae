"""Pack a data set of image files into MindRecord: a few large files, which network file systems read faster.

python to_mindrecord.py --dataset imagenet --data_path /data/imagenet --output_path /data/imagenet_mindrecord
python train.py --config config/squeezenet_imagenet_v1_0.yaml --dataset mindrecord --data_path /data/imagenet_mindrecord
"""

import sys

from src.cli.errors import run


def main() -> None:
    # Here, so that Ctrl-C is one line while MindSpore is imported, which takes seconds.
    from src.config import MindRecordConfig, parse

    (config,) = parse(sys.argv[1:], "Pack a data set of image files into MindRecord.", MindRecordConfig)

    from src.dataset.packing import pack  # After the arguments are checked.

    images = pack(config)
    counts = ", ".join(f"{count:,} images for {split}" for split, count in images.items())
    print(f"{config.output_path}: {counts}; train with --dataset mindrecord --data_path {config.output_path}")


if __name__ == "__main__":
    run(main)
