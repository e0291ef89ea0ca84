#!/usr/bin/env bash
# What only a GPU can show, in at most eight minutes: the tests that need one, the losses, and steps of a 1.5B student of a 7B
# teacher with their peak. Where there is none, it says so and does nothing.
#
#     bash benchmarks/gpu.sh            # PYTHON=.venv/bin/python OUT=FOLDER for others than python and benchmarks/gpu
set -u -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
python=${PYTHON:-python}
out=${OUT:-benchmarks/gpu}

if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    echo "no GPU here (PyTorch finds no CUDA device): nothing was run"
    exit 0
fi
mkdir -p "$out"
missing=()

# part NAME SECONDS COMMAND...: one part within its time; its output is shown, and kept in $out/NAME.txt
part() {
    local name=$1 seconds=$2 begun=$SECONDS code
    shift 2
    printf '\n== %s (at most %s s): %s\n' "$name" "$seconds" "$*"
    timeout --kill-after=10 "$seconds" "$@" 2>&1 | tee "$out/$name.txt"
    code=${PIPESTATUS[0]}
    if [ "$code" -eq 124 ] || [ "$code" -eq 137 ]; then
        missing+=("$name: not finished in $seconds s; what it printed is in $out/$name.txt")
    elif [ "$code" -ne 0 ]; then
        missing+=("$name: ended with exit code $code; see $out/$name.txt")
    fi
    printf '== %s: %s s\n' "$name" "$((SECONDS - begun))"
}

losses() {
    part "losses-$1" 45 "$python" benchmarks/losses.py --device cuda --dtype "$1" --tokens 8192 --student 2048 --teacher 4096 \
        --repeats 5 --contenders 'naive;limbeck ForwardKL;limbeck CrossEntropy;Liger fused, forward' --json "$out/losses-$1.json"
}

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv 2>/dev/null || missing+=("nvidia-smi: not found")
# the step first: it is what no other machine can stand in for
part steps 150 "$python" benchmarks/gpu_steps.py --json "$out/steps.json"
part kernels 75 "$python" -m pytest -q -m gpu tests/models/test_by_document.py tests/objectives tests/run
losses bfloat16
losses float32
part jobs 100 "$python" -m pytest -q -m gpu tests/test_cuda.py

printf '\n'
if [ "${#missing[@]}" -eq 0 ]; then
    echo "nothing is missing; all of it is in $out"
else
    printf 'missing:\n'
    printf '  %s\n' "${missing[@]}"
    exit 1
fi
