#!/usr/bin/env bash
# Set up .venv and run all checks: ruff, shellcheck, pytest.
#
#   bash scripts/test.sh                   the default: minutes on two cores
#   bash scripts/test.sh -m thorough       those that take several seconds each, which continuous integration runs too
#   bash scripts/test.sh -m slow           the slow ones: trainings on real images, starts and kills of programs
#   bash scripts/test.sh --all             all of them
#   bash scripts/test.sh tests/dataset     further arguments are pytest's; -n 0 runs all in one process
#
# The tests share the cores this process may use, at most 8; plain `pytest` runs them one after the other.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

selection=()
case "${1:-}" in
    -h | --help) usage "${BASH_SOURCE[0]}" && exit ;;
    --all) selection=(-m "slow or not slow") && shift ;;
esac
cd "$root"
set_up_environment requirements-dev.txt
for script in scripts/*.sh .ci/run; do
    bash -n "$script"
done
cores=$(nproc 2>/dev/null || echo 2)
set -x
"$python" -m pip check
"$python" -m ruff check .
"$python" -m ruff format --check .
"$(dirname "$python")/shellcheck" --external-sources scripts/*.sh .ci/run
"$python" -m pytest -n $((cores < 8 ? cores : 8)) --dist worksteal --durations=20 "${selection[@]}" "$@"
