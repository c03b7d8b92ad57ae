# Sourced by the other scripts: where the project is, which Python runs it, and how to set one up.
# shellcheck shell=bash
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
    printf 'error: %s\n' "$1" >&2
    exit 2
}

# Print the comment at the head of a script as its help.
usage() {
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$1"
}

# Print the Python to run with: $PYTHON, the active environment's, the project's own, or the system's.
find_python() {
    if [ -n "${PYTHON:-}" ]; then
        printf '%s\n' "$PYTHON"
    elif [ -z "${VIRTUAL_ENV:-}" ] && [ -x "$root/.venv/bin/python" ]; then
        printf '%s\n' "$root/.venv/bin/python"
    else
        command -v python3 || command -v python || fail "no python on PATH: install Python 3.9 to 3.12"
    fi
}

# Print a Python that MindSpore has packages for.
find_supported_python() {
    local candidate
    for candidate in python3 python3.11 python3.10 python3.12 python3.9 python; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "MindSpore needs Python 3.9 to 3.12 and none is on PATH: install one, or name it with PYTHON=..."
}

# Make $root/.venv with what a requirements file names, and set `python`. A MindSpore that is installed already, as on
# an Ascend host, is kept: in a virtual environment that is active, which then takes the requirements, or in the system.
# Otherwise the one that is fastest on a CPU is installed.
set_up_environment() {
    local requirements=$1 base
    python=$root/.venv/bin/python
    if [ ! -x "$python" ]; then
        base=${PYTHON:-$(find_supported_python)} || exit 2
        local options=()
        if "$base" -c 'import importlib.metadata as m; m.version("mindspore")' 2>/dev/null; then
            options=(--system-site-packages)
        fi
        # A .venv made from here would see the system's packages, and not those of the active environment.
        if [ ${#options[@]} -gt 0 ] && "$base" -c 'import sys; sys.exit(sys.prefix == sys.base_prefix)'; then
            echo "using $("$base" -c 'import sys; print(sys.prefix)'), which has MindSpore"
            python=$base
        else
            echo "making $root/.venv with $("$base" --version)"
            "$base" -m venv "${options[@]}" "$root/.venv" ||
                fail "cannot make $root/.venv: on Debian and Ubuntu, apt install python3-venv"
        fi
    fi
    local constraints=()
    if grep -qs 'include-system-site-packages = false' "$root/.venv/pyvenv.cfg"; then
        constraints=(-c "$root/constraints-cpu.txt")
    fi
    echo "installing $(basename "$requirements")"
    "$python" -m pip install --quiet --disable-pip-version-check -r "$requirements" "${constraints[@]}" ||
        fail "pip could not install $requirements: its message above says why"
}
