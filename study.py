"""Train a study: a configuration with some keys varied, each with several seeds. Or compare runs.

python study.py --config config/squeezenet_digits.yaml --vary squeeze_ratio=0.125,0.25,0.5,1 --seeds 1 2 3
python study.py --config config/squeezenet_digits.yaml --vary pct_3x3=0.25,0.5 --vary bypass=none,simple --grid --jobs 2
python study.py --resume studies/squeezenet_digits                          # continue after an interruption
python study.py --runs runs/a runs/b --output_path comparison               # compare runs that exist
"""

from __future__ import annotations

import sys

from src.cli import signals
from src.cli.errors import run


def main() -> int:
    signals.watch()
    # Here, so that Ctrl-C is one line while MindSpore is imported, which takes seconds.
    from src.study.config import parse_study

    study, words = parse_study(sys.argv[1:])
    if study.runs:
        from src.study.comparison import compare_runs

        return compare_runs(study, words)
    from src.study.study import run_study

    return run_study(study, words)


if __name__ == "__main__":
    run(main)
