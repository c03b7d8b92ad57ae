"""Convert weights of SqueezeNet from other systems to a checkpoint, and back.

python convert.py --from torchvision squeezenet1_1.pth --ckpt_path squeezenet.ckpt
python convert.py --from net compressed_SqueezeNet.net --ckpt_path squeezenet.ckpt
python convert.py --from npz squeezenet.npz --classifier_padding 1 --ceil_mode false --ckpt_path squeezenet.ckpt
python convert.py --from caffemodel squeezenet_v1.1.caffemodel --fold_input --ckpt_path squeezenet.ckpt
python convert.py --from onnx squeezenet.onnx --ckpt_path squeezenet.ckpt
python convert.py --from mindspore zoo.ckpt --ckpt_path squeezenet.ckpt
python convert.py --to torchvision squeezenet.pth --ckpt_path squeezenet.ckpt
"""

import sys

from src.cli.errors import run


def main() -> None:
    # Here, so that Ctrl-C is one line while MindSpore is imported, which takes seconds.
    from src.conversion.config import parse_convert

    config = parse_convert(sys.argv[1:], "Convert weights: --from FORMAT FILE, or --to FORMAT FILE, and --ckpt_path.")

    from src.conversion.converting import convert  # After the arguments are checked.

    print(convert(config))


if __name__ == "__main__":
    run(main)
