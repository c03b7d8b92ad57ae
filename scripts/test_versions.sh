#!/usr/bin/env bash
# Run the fast part of the tests with each MindSpore and on several Pythons; write the table to docs/VERSIONS.md.
#
#   bash scripts/test_versions.sh               2.7, 2.9 and 2.10 on one Python, 2.8 on the oldest and the newest here
#   bash scripts/test_versions.sh 2.10          one version on one Python: its row in the table is replaced
#   bash scripts/test_versions.sh 2.10 3.12     on this Python
#   NUMPY=2 bash scripts/test_versions.sh 2.10  with NumPy 2, against the limit in requirements.txt
#
# The environments lie in .venvs/<MindSpore>-<Python>/, with what pytest said in tests.log; a later run uses them again.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

VERSIONS=(2.7 2.8 2.9 2.10)
PYTHONS=(3.11 3.10 3.12 3.9) # The first one here is taken where one is enough.
# The parts that use MindSpore's operators, graphs, data sets, optimizers, checkpoints and exports.
FAST=(tests/test_squeezenet.py tests/test_loss.py tests/test_lr_generator.py tests/test_checkpoint.py tests/test_init.py
    tests/test_programs.py tests/network/test_dropout.py tests/network/test_pooling.py tests/devices
    tests/optimizers/test_optimizers.py tests/dataset/test_pipeline.py tests/dataset/test_preprocessing.py
    tests/training/test_callbacks.py tests/training/test_model.py tests/inference/test_export.py)
TABLE=docs/VERSIONS.md

# Print those of the Pythons that are here, in the order given.
present() {
    local candidate
    for candidate in "$@"; do
        if "python$candidate" -c '' 2>/dev/null; then printf '%s\n' "$candidate"; fi
    done
}

# Make the environment of a MindSpore and a Python, and set `python`.
set_up() {
    local folder=.venvs/$1-$2${NUMPY:+-numpy$NUMPY} requirements
    python=$folder/bin/python
    [ -x "$python" ] || "python$2" -m venv "$folder"
    requirements=$(mktemp)
    # Not torch, which is large, and whose tests are skipped without it.
    grep -h '^pytest\|^hypothesis' requirements-dev.txt >"$requirements"
    if [ -z "${NUMPY:-}" ]; then cat requirements.txt >>"$requirements"; else
        sed "s/^numpy.*/numpy==$NUMPY.*/" requirements.txt >>"$requirements"
    fi
    "$python" -m pip install --quiet --disable-pip-version-check -r "$requirements" "mindspore==$1.*"
}

# Run the fast part in the environment and print its row of the table.
row() {
    local log versions
    log=$(dirname "$(dirname "$python")")/tests.log
    "$python" -m pytest -n "$(nproc)" -p no:cacheprovider -q -rf -m "not slow" "${FAST[@]}" >"$log" 2>&1 || true
    versions=$("$python" -c "
import platform
from importlib.metadata import version
print(version('mindspore'), platform.python_version(), version('numpy'), sep=' | ')")
    printf '| %s' "$versions"
    local what
    for what in passed 'failed\|error' skipped; do
        printf ' | %s' "$(tail -n 1 "$log" | grep -o "[0-9]* \($what\)" | awk '{n += $1} END {print n + 0}')"
    done
    printf ' | %s |\n' "$(date -u +%F)"
}

# Put a row into the table in place of that of the same versions, and show it.
record() {
    local others notes
    notes=$(sed '1,/^|---/d; /^|/d' "$TABLE" 2>/dev/null) # What follows the table.
    others=$(grep '^| [0-9]' "$TABLE" 2>/dev/null | awk -F' [|] ' -v new="$1" '
        BEGIN { split(new, n, / [|] /) }
        { split($0, o, / [|] /) }
        o[1] != n[1] || o[2] != n[2] || o[3] != n[3]' || true)
    {
        printf '# Versions\n\nThe fast part of the tests with each MindSpore, on a CPU: %s.\n\n' \
            "\`bash scripts/test_versions.sh\`"
        printf '| MindSpore | Python | NumPy | passed | failed | skipped | on |\n|---|---|---|---|---|---|---|\n'
        printf '%s\n%s\n' "$others" "$1" | sed '/^$/d' | sort -V
        [ -z "$notes" ] || printf '%s\n' "$notes"
    } >"$TABLE.new"
    mv "$TABLE.new" "$TABLE"
    printf '%s\n' "$1"
}

case "${1:-}" in
    -h | --help) usage "${BASH_SOURCE[0]}" && exit ;;
esac
cd "$root"
mapfile -t here < <(present "${PYTHONS[@]}")
[ "${#here[@]}" -gt 0 ] || fail "none of Python 3.9 to 3.12 is on PATH"
mapfile -t by_age < <(printf '%s\n' "${here[@]}" | sort -V)

runs=()
if [ $# -gt 0 ]; then
    runs=("$1 ${2:-${here[0]}}")
else
    for version in "${VERSIONS[@]}"; do
        if [ "$version" = 2.8 ]; then
            runs+=("2.8 ${by_age[0]}" "2.8 ${by_age[-1]}")
        else
            runs+=("$version ${here[0]}")
        fi
    done
fi
failed=0
for run in "${runs[@]}"; do
    read -r mindspore_version python_version <<<"$run"
    echo "MindSpore $mindspore_version on Python $python_version" >&2
    set_up "$mindspore_version" "$python_version"
    result=$(row)
    record "$result"
    [ "$(awk -F' [|] ' '{print $5}' <<<"$result")" = 0 ] || failed=1
    grep -h '^FAILED\|^ERROR' "$(dirname "$(dirname "$python")")/tests.log" >&2 || true
done
exit "$failed"
