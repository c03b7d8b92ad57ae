"""Write the reference of all configuration keys as Markdown.

python docs/make_configuration.py > docs/CONFIGURATION.md
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import get_type_hints

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.cli.help_text import default_of, describe, heading_of, meanings_of
from src.compression.config import Compression
from src.config import DeviceConfig, MindRecordConfig, TrainConfig
from src.conversion.config import ConvertConfig
from src.inference.config import EvalConfig, ExportConfig, InferConfig
from src.study.config import StudyConfig

INTRODUCTION = """\
# Configuration

Made by `python docs/make_configuration.py > docs/CONFIGURATION.md`.

Each key is a line in a YAML file given with `--config`, and a flag: `--key value`. Flags take precedence over the file,
the file over the defaults. The defaults of `train.py` are the recipe of the MindSpore tutorial on CIFAR-10. A list is
several words, or words with commas between them: `--augment crop_flip,mixup`. `study.py` also takes the keys of
`train.py`, for the base of a study. `null` stands for no value."""
PROGRAMS = {
    "train.py": get_type_hints(TrainConfig).values(),
    "eval.py": [EvalConfig, DeviceConfig],
    "infer.py": [InferConfig, DeviceConfig],
    "export.py": [ExportConfig, DeviceConfig],
    "to_mindrecord.py": [MindRecordConfig],
    "convert.py": [ConvertConfig],
    "compress.py": get_type_hints(Compression).values(),
    "study.py": [StudyConfig],
}


def owner(concern: type, field: dataclasses.Field) -> type:
    """Return the dataclass that defines a field, or redefines it: the concern itself or one of its bases."""
    bases = [base for base in concern.__mro__ if dataclasses.is_dataclass(base)]
    return [base for base in bases if field in dataclasses.fields(base)][-1]


def reference() -> str:
    """Return the reference: a table for each group of keys, which names the programs that take them."""
    groups: dict[type, dict[str, list]] = {}
    for program, concerns in PROGRAMS.items():
        for concern in concerns:
            for field in dataclasses.fields(concern):
                group = owner(concern, field)
                groups.setdefault(group, {}).setdefault(field.name, [field, []])[1].append(program)
    lines = [INTRODUCTION]
    for group, keys in groups.items():
        title, explanation = heading_of(group)
        lines += ["", f"## {title}"]
        lines += ["", explanation[0].upper() + explanation[1:]] if explanation else []
        lines += ["", "| key | default | values | meaning | used by |", "|---|---|---|---|---|"]
        meanings, hints = meanings_of(group), get_type_hints(group, include_extras=True)
        for key, (field, programs) in keys.items():
            default = default_of(field)
            shown = "(required)" if default is dataclasses.MISSING else json.dumps(default)
            cells = [f"`{key}`", shown, describe(hints[key]), meanings[key], ", ".join(programs)]
            lines.append("| " + " | ".join(re.sub(r"\|", r"\\|", cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
