"""Export a checkpoint to MINDIR or ONNX (or AIR, which is deprecated), with its specification next to it.

python export.py --ckpt_path best.ckpt --file_format MINDIR
python export.py --ckpt_path best.ckpt --file_format ONNX --dynamic_batch --uint8_input --softmax
"""

import sys

from src.cli.errors import run


def main() -> None:
    # Here, so that Ctrl-C is one line while MindSpore is imported, which takes seconds.
    from src.config import DeviceConfig, parse
    from src.inference.config import CHECKPOINTS, ExportConfig

    config, device = parse(sys.argv[1:], "Export a checkpoint.", ExportConfig, DeviceConfig, positional=CHECKPOINTS)

    from src.inference.export import export_checkpoint  # After the arguments are checked.

    result = export_checkpoint(config, device)
    shape = ", ".join("N" if n is None else str(n) for n in result["input"]["shape"])
    print(f"{result['file']}: input ({shape}) {result['input']['dtype']}, output {result['output']['what']}")
    if result["largest_difference"] is not None:
        print(f"loaded and run: largest difference from the checkpoint's network {result['largest_difference']:.2e}")


if __name__ == "__main__":
    run(main)
