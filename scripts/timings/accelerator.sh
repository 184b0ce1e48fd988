#!/usr/bin/env bash
# What to run first on a GPU or TPU:  scripts/timings/accelerator.sh [PART]...
#
# Parts, each of which can be run alone: environment correctness step_float32 step_bfloat16
# autoattack theory memory suite. A line of JSON a part goes to $OUT/accelerator.jsonl (default
# runs/accelerator) as soon as it is known, what else is said to $OUT/accelerator.log. All are done
# or given up in $LIMIT seconds (580), none takes more than 150. Flags of accelerator.py are in
# $FLAGS. $WHEELS is a folder of wheels to install first, with no network and nothing beside them.
set -uo pipefail
root=$(realpath "$(dirname "$0")/../..")
out=$(realpath -m "${OUT:-$root/runs/accelerator}")
wheels=${WHEELS:+$(realpath "$WHEELS")}
mkdir -p "$out" && cd "$root" || exit 2
if [ -n "$wheels" ]; then
    python -m pip install --no-index --no-deps "$wheels"/*.whl || exit 2
fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} XLA_PYTHON_CLIENT_PREALLOCATE=false
all=(environment correctness step_float32 step_bfloat16 autoattack theory memory suite)
failed=0
for part in "${@:-"${all[@]}"}"; do
    left=$((${LIMIT:-580} - SECONDS))
    limit=$((left < 150 ? left : 150))
    if ((left <= 0)) || ! timeout -k 10 $limit python scripts/timings/accelerator.py "$part" \
        ${FLAGS:-} 2>>"$out/accelerator.log" | tee -a "$out/accelerator.jsonl"; then
        echo "{\"part\": \"$part\", \"failed\": true}" | tee -a "$out/accelerator.jsonl"
        failed=1
    fi
done
exit $failed
