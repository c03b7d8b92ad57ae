"""Deep Compression: prune, quantize and encode a network into one small file, with a report of the loss in accuracy.

python compress.py --ckpt_path best.ckpt --bits 6 --dataset cifar10 --data_path ./data
python compress.py --ckpt_path best.ckpt --target_bytes 130000 --bits 4 --train_epochs 20 --centroid_epochs 3 \
    --max_drop 0.005 --dataset cifar10 --data_path ./data                   # trained while it is pruned and quantized
python compress.py --ckpt_path best.ckpt --target_bytes 400000 --calibration photos/
python compress.py --ckpt_path best.ckpt --int8 --dataset cifar10 --data_path ./data       # compared with int8 ONNX
python compress.py --ckpt_path best.ckpt --tolerance 0.1 --layer_bits "features.0.*=8" "classifier.*=5"
python compress.py --ckpt_path compressed_SqueezeNet.net --bits null        # the authors' file, without loss
python compress.py --decompress compressed_best/best.sqz
"""

import sys

from src.cli import signals
from src.cli.errors import run


def main() -> int:
    signals.watch()
    # Here, so that Ctrl-C is one line while MindSpore is imported, which takes seconds.
    from src.compression.config import parse_compress

    configuration = parse_compress(sys.argv[1:], "Compress a network.")

    from src.compression.compress import compress, decompress  # After the arguments are checked.
    from src.compression.int8 import comparison_table
    from src.compression.report import summary

    if configuration.compress.decompress:
        print(f"checkpoint: {decompress(configuration.compress)}")
        return 0
    report = compress(configuration)
    if "int8" in report:
        print(comparison_table(report["int8"]))
    print(summary(report))
    for line in report["missed"]:
        print(f"warning: {line}")
    return 1 if report["missed"] else 0


if __name__ == "__main__":
    run(main)
