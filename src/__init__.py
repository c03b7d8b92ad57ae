"""SqueezeNet for MindSpore. Import this package before MindSpore, to keep convolutions on the CPU fast.

MindSpore 2.9 and 2.10 ship oneDNN 3.10, which on processors with AVX-512 runs its scalar reference kernel for every
convolution larger than 1x1 in MindSpore's layout, slower by far than the matrix product kernel that it uses when held
to AVX2. oneDNN reads its variable once, when MindSpore loads it, so this has to happen at import. A value that
the user has set stays.
"""

import os
import re
from importlib import metadata


def _hold_onednn_to_avx2() -> None:
    try:
        version = re.match(r"(\d+)\.(\d+)", metadata.version("mindspore"))
    except metadata.PackageNotFoundError:
        return
    applies = version is not None and (int(version[1]), int(version[2])) >= (2, 9)
    if applies and "DNNL_MAX_CPU_ISA" not in os.environ:  # The variable's older name, which oneDNN still reads.
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2_VNNI")


_hold_onednn_to_avx2()
