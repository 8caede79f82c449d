#!/usr/bin/env bash
# Install a fully resolved requirements file into .venv, which is made if there is none; do nothing if it is there already.
#
#     requirements/install.sh requirements/cpu.txt
#
# PYTHON names the interpreter for .venv; TORCH_INDEX_URL another place for torch's CPU build.
set -euo pipefail
cd "$(dirname "$0")/.."

file=${1:?name a requirements file, for example requirements/cpu.txt}
torch_index=${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cpu}
installed=.venv/installed  # copies of the files that were installed
venv=$(readlink -m .venv)

fail() {
    echo "$*" >&2
    exit 1
}

find_python() {
    local candidates=${PYTHON:-python3.12 python3.11 python3} name
    for name in $candidates; do
        # It has to be run: a version manager's python3.12 may exist and refuse to start.
        if "$name" -c 'import sys; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    fail "No Python 3.11 or 3.12 runs here (tried: $candidates): install one, or name it with PYTHON=/path/to/python."
}

# What .venv leads to is emptied only if this script has filled it. Where it is a link, the environment lies behind it.
require_own_venv() {
    [ -e "$venv" ] || return 0
    [ -d "$venv" ] || fail "$venv is no folder: remove it, then run this again."
    [ -e $installed ] || [ -z "$(ls -A "$venv")" ] ||
        fail "$venv was not made here, or not to its end, and nothing of yours is removed: remove it or move it away, then run this again."
}

make_venv() {
    local python
    require_own_venv
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python cannot make a virtual environment: install python3-venv (Debian, Ubuntu), or name another with PYTHON=."
    echo "Making .venv; the first time this takes about ten minutes and 5 GB"
    mkdir -p "$venv/installed"  # first, because it says who made what is beside it
    find "$venv" -mindepth 1 -maxdepth 1 ! -name installed -exec rm -rf {} +
    rm -f "$venv"/installed/*
    "$python" -m venv "$venv"
}

# The scripts in .venv/bin hold the path they were made for, so a checkout that was moved needs a new one.
venv_works() {
    .venv/bin/python -c '' 2>/dev/null && grep -qsF "$venv/" .venv/bin/pip
}

pip_install() {
    .venv/bin/python -m pip --disable-pip-version-check --no-input -qq install --no-deps "$@"
}

# Show how far pip is, in a line every ten seconds, from what it prints; $1 is the number of packages.
show_progress() {
    local line status count=0 shown=$SECONDS unpacking=
    while true; do
        status=0
        IFS= read -r -t 10 line || status=$?
        [ $status -eq 0 ] || [ $status -gt 128 ] || return 0  # above 128: ten seconds without a line
        if [ $status -eq 0 ]; then
            case $line in
                "Collecting "* | "Requirement already satisfied: "*) count=$((count + 1)) ;;
                "Installing collected packages"*) unpacking=yes ;;
            esac
        fi
        if [ $((SECONDS - shown)) -ge 10 ]; then
            if [ -n "$unpacking" ]; then
                echo "  $SECONDS s: all packages are fetched; unpacking them takes some minutes"
            else
                echo "  $SECONDS s: $count of $1 packages fetched"
            fi
            shown=$SECONDS
        fi
    done
}

# torch's CPU build is not on PyPI. A mirror or a find-links folder may have it; if not, it comes from PyTorch's own
# index, which is asked for this one package only: as an extra index it would slow down every other one.
install_torch() {
    pip_install "$1" 2>/dev/null ||
        pip_install --index-url "$torch_index" "$1" ||
        fail "$1 was found neither where pip looks by default nor at $torch_index: check the network, set TORCH_INDEX_URL to another index, or PIP_FIND_LINKS to a folder with the wheel."
}

command -v git >/dev/null || fail "git was not found: install it, DVC needs it."
[ -r "$file" ] || fail "$file does not exist: REQUIREMENTS is cpu or gpu."

venv_works || make_venv
cmp -s "$file" "$installed/$(basename "$file")" && exit
case $(basename "$file") in
    cpu.txt) [ ! -e $installed/gpu.txt ] || fail ".venv holds gpu.txt: remove the folder .venv to install cpu.txt instead." ;;
    gpu.txt) [ ! -e $installed/cpu.txt ] || fail ".venv holds cpu.txt: remove the folder .venv to install gpu.txt instead." ;;
esac

echo "Installing $file into .venv"
pins=$(grep -E '^[A-Za-z0-9]' "$file")
setuptools=$(grep '^setuptools==' <<<"$pins" || true)
torch_cpu=$(grep '^torch==.*+cpu$' <<<"$pins" || true)
# A pinned setuptools goes first and builds what is published as source only, instead of the newest one of the day.
[ -z "$setuptools" ] || pip_install "$setuptools"
[ -z "$torch_cpu" ] || echo "  torch first, which is a few hundred MB"
[ -z "$torch_cpu" ] || install_torch "$torch_cpu"
.venv/bin/python -m pip --disable-pip-version-check --no-input install --progress-bar off --root-user-action ignore \
    --no-deps --use-pep517 --no-build-isolation -r "$file" | show_progress "$(wc -l <<<"$pins")" ||
    fail "pip could not install $file: its own message is above; run this again once the cause is gone."
mkdir -p $installed
cp "$file" $installed/
echo "The environment .venv is ready"
