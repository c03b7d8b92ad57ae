"""Say what a program is doing while it reads something large."""

from __future__ import annotations

import sys
import time
from typing import Iterable, Iterator, TypeVar

Item = TypeVar("Item")
SECONDS = 5.0  # Between lines.


def announced(items: Iterable[Item], what: str) -> Iterator[Item]:
    """Yield the items, and print to stderr every few seconds how many there were: "/data/train: images: 12,000"."""
    last = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        if time.monotonic() - last >= SECONDS:
            last = time.monotonic()
            print(f"{what}: {count:,} so far", file=sys.stderr, flush=True)
