"""Find image files in folders: which names are images', which are hidden, and how many files were passed over."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Iterator

from src.cli.patience import announced
from src.dataset.source import IMAGE_SUFFIXES, printable

# Folders that programs and systems leave among a user's own. Like names with a leading dot, they are hidden.
_SYSTEM_FOLDERS = ("__MACOSX", "__pycache__", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found")
_MOST_KINDS = 8  # That a line names.


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is no part of a data set."""
    return name.startswith(".") or name in (*_SYSTEM_FOLDERS, "System Volume Information")


def image_files(folder: Path, passed_over: Counter[str] | None = None) -> list[Path]:
    """Return all image files below a folder, sorted, without hidden ones.

    passed_over: counts the other files and the hidden folders, by kind.
    """
    found = announced(_image_files(folder, Counter() if passed_over is None else passed_over), f"{folder}: images")
    return list(map(Path, sorted(found, key=lambda name: name.split(os.sep))))  # The order of paths, and faster.


def _image_files(folder: str | Path, passed_over: Counter[str]) -> Iterator[str]:
    with os.scandir(folder) as entries:  # It tells files from folders without asking for each, as Path.rglob does.
        for entry in entries:
            name = entry.name.lower()
            if is_hidden(entry.name):
                passed_over["hidden"] += 1
            elif entry.is_dir(follow_symlinks=False):
                yield from _image_files(entry.path, passed_over)
            elif name.endswith(IMAGE_SUFFIXES) and (entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)):
                yield entry.path
            else:
                kind = os.path.splitext(name)[1] or "without a suffix"
                passed_over[kind if entry.is_file(follow_symlinks=False) else "links and devices"] += 1


def say_passed_over(folder: str | Path, passed_over: Counter[str]) -> None:
    """Print to stderr how many files were passed over, by kind, if there were any."""
    ordered = sorted(passed_over.items(), key=lambda item: (-item[1], item[0]))
    kinds = [f"{count:,} {printable(kind)[:20]}" for kind, count in ordered[:_MOST_KINDS]]
    kinds += ["..."] if len(passed_over) > _MOST_KINDS else []
    if kinds:
        line = f"{printable(folder)}: passed over {sum(passed_over.values()):,} that are no images: {', '.join(kinds)}"
        print(line, file=sys.stderr, flush=True)
