#!/usr/bin/env bash
# What a lent GPU is to show, in at most five minutes: the tests of this folder and both benchmarks on
# CUDA, the most valuable first, each under a time limit. Each result is written to FOLDER as soon as
# it is known; nothing stops at a failure.
#
#     tests/gpu/run.sh [FOLDER]          (default: gpu-results)
#     tests/gpu/run.sh FOLDER --cpu      the script itself, tried without a GPU: tiny sizes, one round
#
# FOLDER then holds machine.txt, generate.txt, train.txt, train_compiled.txt, tests.txt and times.txt.
set -uo pipefail
folder=$(mkdir -p "${1:-gpu-results}" && cd "${1:-gpu-results}" && pwd)
cd "$(dirname "$0")/../.."
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
if [ "${2:-}" = --cpu ]; then
    device=cpu sizes=(--tiny) compiled=()  # a few CPU cores compile for minutes
    export GPU_TESTS_DEVICE=cpu OMP_NUM_THREADS=1
else
    device=cuda sizes=(--threads "$(nproc)") compiled=(tests/gpu/test_cuda_compile.py)
fi
: >"$folder/times.txt"

# limited SECONDS NAME COMMAND…: runs it under a time limit; its output goes to NAME.txt. Five of the
# seconds are for a command that has to be killed. All SECONDS together are 300.
limited() {
    local seconds=$1 name=$2 started=$SECONDS
    shift 2
    printf '\n==> %s\n' "$name"
    timeout --kill-after=5 $((seconds - 5)) "$@" >"$folder/$name.txt" 2>&1
    local status=$?
    printf '%s: exit status %s after %s s of %s\n' \
        "$name" "$status" $((SECONDS - started)) "$seconds" | tee -a "$folder/times.txt"
    tail -n 15 "$folder/$name.txt"
}

limited 15 machine bash -c '
    nvidia-smi || lscpu
    python3 -c "
import platform, torch, transformers
print(platform.python_version(), torch.__version__, transformers.__version__, torch.get_num_threads())
print(torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor())"'
limited 65 generate python3 tests/benchmarks/bench_generate.py \
    --device "$device" --rounds 5 --seconds 8 --budget 45 "${sizes[@]}"
limited 65 train python3 tests/benchmarks/bench_train.py --device "$device" --rounds 5 "${sizes[@]}"
limited 90 tests python3 -m pytest -q -rsxX -p no:cacheprovider \
    tests/gpu/test_cuda_captions.py tests/gpu/test_cuda_training.py "${compiled[@]}"
if [ ${#compiled[@]} -gt 0 ]; then
    limited 65 train_compiled python3 tests/benchmarks/bench_train.py \
        --device "$device" --rounds 5 --captions 5 --compile "${sizes[@]}"
fi

printf '\n==> all in %s s\n' "$SECONDS"
cat "$folder/times.txt"
