#!/usr/bin/env bash
# What to run first on a GPU or TPU:  scripts/timings/accelerator.sh [PART]...
#
# Parts, each of which can be run alone: environment correctness step_float32 step_bfloat16
# autoattack theory suite memory. A line of JSON a part goes to $OUT/accelerator.jsonl (default
# runs/accelerator) as soon as it is known, what else is said to $OUT/accelerator.log. All are done
# or given up in $LIMIT seconds (580), none takes more than 150. Flags of accelerator.py are in
# $FLAGS. $WHEELS is a folder of wheels to install first, with no network and nothing beside them.
set -uo pipefail
cd "$(dirname "$0")/../.."
out=${OUT:-runs/accelerator}
mkdir -p "$out"
if [ -n "${WHEELS:-}" ]; then
    python -m pip install --no-index --no-deps "$WHEELS"/*.whl || exit 2
fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} XLA_PYTHON_CLIENT_PREALLOCATE=false
all=(environment correctness step_float32 step_bfloat16 autoattack theory suite memory)
failed=0
for part in "${@:-"${all[@]}"}"; do
    left=$((${LIMIT:-580} - SECONDS))
    limit=$((left < 150 ? left : 150))
    if ((left <= 0)) || ! timeout $limit python scripts/timings/accelerator.py "$part" \
        ${FLAGS:-} 2>>"$out/accelerator.log" | tee -a "$out/accelerator.jsonl"; then
        echo "{\"part\": \"$part\", \"failed\": true}" | tee -a "$out/accelerator.jsonl"
        failed=1
    fi
done
exit $failed
