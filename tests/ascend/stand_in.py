"""Build a stand-in for CANN: with it MindSpore's own Ascend backend compiles and schedules without an NPU.

    python -m tests.ascend.stand_in                    # builds, when it is not built yet, and prints what to set
    env $(python -m tests.ascend.stand_in) python train.py --device_target Ascend ...

MindSpore's wheel for Linux has its whole Ascend plugin; CANN's libraries alone are missing. Here every function that
the plugin asks of them is made to return 0, success, and those that must hand something back (memory, streams, handles,
the name of the chip) are written out in stand_in/. Kernels compute nothing: values are whatever memory holds.

What it shows: which operators a graph has, that MindSpore's Ascend backend accepts their types and shapes, which kind
of kernel each gets, that sink mode, callbacks, loss scale, mixed precision and the set-up of data parallelism run
through. What it cannot show: values, speed, whether CANN has a kernel on a given chip, HCCL over wires.

Made with MindSpore 2.8.0. 2.9.0 starts on it, and 2.10.0 does and has the same kernels in v1.0's training step.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "stand_in"
TOOLS = ("gcc", "g++", "nm", "readelf")
# MindSpore looks for the version of CANN in a folder of this name on the way to the library.
FOLDER = "cann"
CANN_VERSION, HCCL_VERSION = "8.3.0", "8.5.0"
# Loaded by name while it runs, and so not among what the plugin is linked with.
LOADED_BY_NAME = (
    *("libacl_op_compiler.so", "libacl_op_executor.so", "libacl_tdt_channel.so", "libaoe_executor.so", "libhccl.so"),
    *("libcust_opapi.so", "libmsprofiler.so", "libnnopbase.so", "libopapi.so", "libruntime.so"),
)
_BY_NAME = re.compile(rb"\0((?:acl|Hccl|Hcom|hal(?=[A-Z]))\w+)(?=\0)")
# Of the C++ runtime and Python, which are there.
_NOT_CANN = ("Py", "_Py", "_ITM", "__gmon", "_ZTH", "_ZNSt", "_ZSt", "_ZNKSt", "_ZTVN10__", "_ZTISt", "_ZTVSt")
_SYSTEM = ("libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0", "libz.so.1", "ld-linux-x86-64.so.2")
_SYSTEM += ("libstdc++.so.6", "libgcc_s.so.1", "libgomp.so.1")


def why_not() -> str | None:
    """Return the reason why a stand-in cannot be built here, or None."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return "the stand-in for CANN is for Linux on x86-64"
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        return f"the stand-in for CANN needs {', '.join(missing)} (gcc, g++ and binutils)"
    if not list((_mindspore() / "lib" / "plugin").glob("libmindspore_ascend.so*")):
        return "this MindSpore has no Ascend plugin"
    return None


def environment(**more: str) -> dict[str, str]:
    """Return the variables that a program needs to run on the stand-in, which is built when it is not there yet.

    more: further ones, such as STAND_IN_SOC (stand_in/runtime.c).
    """
    cann = build()
    libraries = cann / "lib64"
    return {
        "ASCEND_HOME_PATH": str(cann),
        "ASCEND_TOOLKIT_HOME": str(cann),
        "ASCEND_OPP_PATH": str(cann / "opp"),
        "LD_LIBRARY_PATH": f"{libraries}:{libraries / 'driver'}",
        "LD_PRELOAD": str(cann / "cores.so"),
        "PYTHONPATH": str(cann / "python"),
        **more,
    }


@functools.cache
def build() -> Path:
    """Return the folder of the stand-in for the installed MindSpore: from the cache, or built within half a minute."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "squeezenet-stand-in"
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in (Path(__file__), *sorted(SOURCES.iterdir()))))
    place = cache / f"mindspore-{metadata.version('mindspore')}-{digest.hexdigest()[:12]}"
    if not place.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            made = Path(temporary) / "made"
            _build(made / FOLDER)
            try:
                made.rename(place)
            except OSError:  # Another process was faster.
                if not place.is_dir():
                    raise
    return place / FOLDER


def _build(cann: Path) -> None:
    libraries = cann / "lib64"
    for folder in (libraries / "driver", cann / "compiler", cann / "opp", cann / "python" / "hccl", cann / "objects"):
        folder.mkdir(parents=True)
    (cann / "compiler" / "version.info").write_text(f"Version={CANN_VERSION}\n")
    (cann / "python" / "hccl" / "__init__.py").touch()
    (cann / "python" / "hccl" / "sys_version.py").write_text(f'__sys_version__ = "{HCCL_VERSION}"\n')

    written = [cann / "objects" / "runtime.o", cann / "objects" / "graph_engine.o"]
    options = ("-c", "-fPIC", "-O1", "-w")
    _run("gcc", *options, SOURCES / "runtime.c", "-o", written[0])
    _run("g++", *options, "-D_GLIBCXX_USE_CXX11_ABI=0", SOURCES / "graph_engine.cc", "-o", written[1])

    # Paths in the package, which say for which device a library is.
    names = [f.relative_to(_mindspore()) for f in _mindspore().rglob("*.so*")]
    shipped = [_mindspore() / name for name in names if not re.search("gpu|custom_", str(name))]
    ascend = [name for name in names if not re.search("cpu_kernels|ops_cpu|/cpu/|gpu|aarch64", str(name))]
    plugin = [_mindspore() / name for name in ascend if "lib/plugin/" in str(name) or "ge_backend" in name.name]
    asked = _asked(plugin) - _defined(shipped) - _defined(written)
    (cann / "objects" / "rest.s").write_text(_successes(asked))
    main = libraries / "libascendcl.so"
    _link(main, *written, cann / "objects" / "rest.s", "-lstdc++")
    # Every other library is empty and leads to that one.
    own = {f.name for f in shipped}
    for name in sorted((_linked_with(plugin) | {*LOADED_BY_NAME, "libascend_hal.so"}) - own - {*_SYSTEM, main.name}):
        _link(libraries / name, "-Wl,--no-as-needed", main)
    shutil.copy(libraries / "libascend_hal.so", libraries / "driver")
    _run("gcc", "-shared", "-fPIC", "-O1", SOURCES / "cores.c", "-o", cann / "cores.so", "-ldl")
    shutil.rmtree(cann / "objects")


def _asked(plugin: list[Path]) -> set[str]:
    """Return the symbols that the plugin needs of CANN: those it is linked with, and those it looks up by name."""
    symbols = {s for s in _symbols(plugin, "--undefined-only") if not s.startswith(_NOT_CANN)}
    by_name = {s.decode() for file in plugin for s in _BY_NAME.findall(file.read_bytes())}
    # aclnnX is looked up together with the function that tells how much room it needs.
    by_name |= {f"{s}GetWorkspaceSize" for s in by_name if s.startswith("aclnn") and not s.endswith("WorkspaceSize")}
    return {s for s in symbols | by_name if re.fullmatch(r"[A-Za-z_][\w.]*", s)}


def _defined(files: list[Path]) -> set[str]:
    system = [Path(folder, name) for name in _SYSTEM for folder in ("/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64")]
    return _symbols(files, "--defined-only") | _symbols([f for f in system if f.exists()], "--defined-only")


def _symbols(files: list[Path], which: str) -> set[str]:
    dynamic = () if files and files[0].suffix == ".o" else ("-D",)
    listed = subprocess.run(["nm", *dynamic, which, *map(str, files)], capture_output=True, text=True).stdout
    return {line.split()[-1].split("@")[0] for line in listed.splitlines() if re.search(r" [A-Za-z] ", line)}


def _linked_with(plugin: list[Path]) -> set[str]:
    listed = subprocess.run(["readelf", "-d", *map(str, plugin)], capture_output=True, text=True).stdout
    return set(re.findall(r"\(NEEDED\).*\[(.*)\]", listed)) - {"ld-linux-aarch64.so.1"}


def _successes(symbols: set[str]) -> str:
    """Return assembly of functions that return 0, and of zeros for virtual tables and types (_ZTV, _ZTI, _ZTS)."""
    data = {s for s in symbols if s.startswith(("_ZTV", "_ZTI", "_ZTS"))}
    functions = [f".globl {s}\n.type {s},@function\n{s}:" for s in sorted(symbols - data)]
    zeros = [f".globl {s}\n.type {s},@object\n.size {s},256\n{s}: .zero 256" for s in sorted(data)]
    lines = [".text", *functions, "xor %eax,%eax", "ret", ".data", *zeros, '.section .note.GNU-stack,"",@progbits']
    return "\n".join(lines) + "\n"


def _link(library: Path, *inputs: object) -> None:
    _run("gcc", "-shared", "-fPIC", "-o", library, f"-Wl,-soname,{library.name}", *inputs)


def _run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True)


def _mindspore() -> Path:
    return Path(importlib.util.find_spec("mindspore").origin).parent


if __name__ == "__main__":
    print("\n".join(f"{name}={value}" for name, value in environment().items()))
