"""Deep Compression: prune, share and code a network into one small file, with a report of what that costs.

python compress.py --ckpt_path best.ckpt --bits 6 --dataset cifar10 --data_path ./data
python compress.py --ckpt_path best.ckpt --tolerance 0.1 --layer_bits "features.0.*=8" "classifier.*=5"
python compress.py --ckpt_path best.ckpt --curve --images photos/ --labels labels.csv
python compress.py --ckpt_path compressed_SqueezeNet.net --bits null        # the authors' file, without loss
python compress.py --decompress compressed_best/best.sqz
"""

import sys

from src.compression.config import parse_compress
from src.errors import run


def main() -> None:
    config, measuring, device = parse_compress(sys.argv[1:], "Compress a network.")

    from src.compression.compressing import accuracy, compress, decompress  # After the arguments are checked.
    from src.compression.report import table

    if config.decompress:
        print(f"checkpoint: {decompress(config)}")
        return
    report = compress(config, measuring, device)
    print(table(report["layers"], report["totals"]))
    for step in report["steps"]:
        print(f"{step['step']}: {step['file_bytes']:,} bytes" + accuracy(step))
    print(f"compressed file, report.json and pictures: {report['file']}")


if __name__ == "__main__":
    run(main)
