"""Pack image files into MindRecord files, which mindrecord.py reads."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Iterator

from src.cli.errors import UserError
from src.cli.terminal import warn
from src.dataset.mindrecord import DESCRIPTION, MAX_ROW_BYTES, SCHEMA, SUFFIX
from src.dataset.source import FileSource, printable
from src.dataset.splits import open_source, splits
from src.files.atomic import WriteError, sync_folder, write_json
from src.files.bounded import open_file

_BATCH = 64  # Rows handed to the writer together.


def pack(config) -> dict[str, int]:
    """Pack a data set and return the number of images in each split.

    config: a MindRecordConfig (src/config.py).

    The folder appears when complete; a killed process leaves only a hidden folder next to it. Raises UserError, before
    anything is written, for unusable data or folders.
    """
    target = Path(config.output_path)
    if os.path.lexists(target) and (not os.path.isdir(target) or any(target.iterdir())):
        raise UserError(f"{target}: already exists; choose another --output_path, or remove it")
    if not os.fsdecode(target).isprintable():
        raise UserError(f"{printable(target)}: MindRecord does not accept this name; choose another --output_path")
    sources = {split: open_source(config, split) for split in splits(config)}
    if not sources:
        raise UserError(f"{config.data_path}: contains no class folders, and neither train/ nor val/")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".packing-", dir=target.parent))
    except OSError as error:
        raise WriteError(target, error) from None
    try:
        images = {split: _pack_split(source, partial / split, config) for split, source in sources.items()}
        classes = next(iter(sources.values())).classes
        write_json(partial / DESCRIPTION, {"classes": classes, "images": images})
        partial.chmod(0o755)
        os.rename(partial, target)
    except OSError as error:
        raise WriteError(target, error) from None
    except RuntimeError as error:  # MindSpore's writer says more behind this mark.
        _, mark, reason = str(error).partition("[ERROR] ")
        if not mark:
            raise
        raise WriteError(target, OSError(reason)) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync_folder(target.parent)
    return images


def _pack_split(source: FileSource, folder: Path, config) -> int:
    """Write the files of a split, and return the number of images in them."""
    folder.mkdir()
    per_file = math.ceil(len(source) / config.files)
    starts = range(0, len(source), per_file)
    written = 0
    for number, start in enumerate(starts):
        file, end = folder / f"{number:04}-of-{len(starts):04}{SUFFIX}", min(start + per_file, len(source))
        written += _write_file(file, _rows(source, range(start, end), config))
        print(f"{folder.name}: {end:,} of {len(source):,} images", flush=True)
    return written


def _rows(source: FileSource, indices: range, config) -> Iterator[dict]:
    """Yield the rows of some images. Unreadable images are named and left out, up to the limit."""
    for index in indices:
        file = source.file(index)
        try:
            with open_file(file) as stream:
                content = stream.read(MAX_ROW_BYTES + 1)
            problem = "" if content else "is empty"
            problem = problem or ("is larger than a page of MindRecord" if len(content) > MAX_ROW_BYTES else "")
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        if not problem:
            name = f"{file.parent.name}/{file.name}".encode("utf-8", "backslashreplace")
            yield {"image": content, "name": name, "label": int(source.labels[index])}
            continue
        if len(source.broken) >= config.max_broken_images:
            raise UserError(f"{printable(file)}: {problem}; remove it or replace it")
        source.broken.add(index)
        warn(f"image left out: {printable(file)}: {problem}")


def _write_file(file: Path, rows: Iterator[dict]) -> int:
    """Write rows to a MindRecord file and return their number. Writes no file without rows."""
    from mindspore.mindrecord import FileWriter

    writer, count = None, 0
    while batch := list(itertools.islice(rows, _BATCH)):
        if writer is None:
            writer = FileWriter(str(file), shard_num=1)
            writer.add_schema(SCHEMA, "images, as the files were, with their names and labels")
            writer.add_index(["label"])
        writer.write_raw_data(batch)
        count += len(batch)
    if writer is not None:
        writer.commit()
    return count
