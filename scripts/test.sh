#!/usr/bin/env bash
# Set up .venv and run all checks: ruff, shellcheck, pytest.
#
#   bash scripts/test.sh                   the fast tests, some minutes
#   bash scripts/test.sh --all             the slow ones too: trainings on real images
#   bash scripts/test.sh tests/dataset     further arguments are pytest's
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
set -x
"$python" -m pip check
"$python" -m ruff check .
"$python" -m ruff format --check .
.venv/bin/shellcheck --external-sources scripts/*.sh .ci/run
"$python" -m pytest "${selection[@]}" "$@"
