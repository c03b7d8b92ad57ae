"""Print the layers of a network with output shapes, parameters and multiply-adds.

python -m src.summary --config config/squeezenet_cifar10.yaml --squeeze_ratio 0.25
"""

from __future__ import annotations

import dataclasses
import sys

from src.cli.errors import run
from src.config import parse_train
from src.network.convolutions import replaced_widths
from src.network.summary import check_image_size, summarize, table


def main() -> None:
    """Print the table of the network that a configuration describes."""
    config = parse_train(sys.argv[1:], "layers, parameters and multiply-adds of a network")
    model = {**dataclasses.asdict(config.model), "num_classes": config.model.num_classes or 10}
    check_image_size(model, config.data.image_size)
    if replaced_widths(model):
        print(replaced_widths(model), file=sys.stderr)
    print(table(summarize(model, config.data.image_size)))


if __name__ == "__main__":
    run(main)
