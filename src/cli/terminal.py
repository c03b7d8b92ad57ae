"""Progress on a terminal, and warnings that do not tear it."""

import sys

from tqdm import tqdm


def images_bar(images: int, what: str) -> tqdm:
    """Return a bar that counts images on a terminal and disappears at its end; elsewhere it shows nothing.

    what: is done with the images, such as "classifying".
    """
    return tqdm(total=images, desc=what, unit=" images", leave=False, dynamic_ncols=True, disable=None)


def warn(message: str) -> None:
    """Print a warning on stderr, above a bar if there is one."""
    tqdm.write(f"warning: {message}", file=sys.stderr)
    sys.stderr.flush()
