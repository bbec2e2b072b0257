#!/usr/bin/env bash
# Make the environment, then run every experiment of the profile this machine is good for and write tables/.
#
#   ./run_all.sh [NAME or glob ...] [--profile smoke|cpu|gpu|paper] [--seeds N] [--budget 25m]   see `repro run --help`
#   ./run_all.sh test [pytest options]
#
# PYTHON chooses the interpreter (3.11 to 3.13); REPRO_EXTRAS the extras (default: gpu where an NVIDIA card is found).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

fail() { echo "run_all.sh: $1" >&2; exit 2; }

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.12 python3.13 python3.11 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 to 3.13 found; install one, or name it: PYTHON=/path/to/python ./run_all.sh"
}

# Install into .venv, once for each state of pyproject.toml and choice of extras.
install() {
    local extras=$1 wanted python
    wanted="${extras:-none} $(cksum <pyproject.toml)"
    if [[ -x .venv/bin/python && -f .venv/installed && "$(cat .venv/installed)" == "$wanted" ]]; then
        return
    fi
    python=$(find_python)
    echo "installing into .venv with $("$python" --version) (some minutes, once)"
    if command -v uv >/dev/null; then
        [[ -x .venv/bin/python ]] || uv venv --quiet --python "$python" .venv
        uv pip install --quiet --python .venv/bin/python -e ".${extras:+[$extras]}"
    else
        [[ -x .venv/bin/python ]] || "$python" -m venv .venv
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".${extras:+[$extras]}"
    fi
    echo "$wanted" >.venv/installed
}

installed_extras() { [[ -f .venv/installed ]] && cut -d' ' -f1 .venv/installed | sed 's/^none$//' || true; }

if [[ "${1:-}" == test ]]; then
    shift
    # tests need the development tools beside whatever runs need
    current=$(installed_extras)
    case ",$current," in
        *,dev,*) extras=$current ;;
        ,,) extras=dev ;;
        *) extras=dev,$current ;;
    esac
    install "${REPRO_EXTRAS:-$extras}"
    exec .venv/bin/python -m pytest "$@"
fi

if [[ -n "${REPRO_EXTRAS:-}" ]]; then
    extras=$REPRO_EXTRAS
elif [[ -n "$(installed_extras)" ]]; then
    extras=$(installed_extras)
elif command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then
    extras=gpu
else
    extras=
fi
install "$extras"
exec .venv/bin/python -m repro run "$@"
