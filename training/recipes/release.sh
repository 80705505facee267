#!/usr/bin/env bash
# The release checkpoint, from the annotations to the model card. About an hour on two CPU cores.
# REAL_DIR holds the texts of annotations/real (cot-probe annotations fetch makes it).
# Another SEED shows how much of a figure is chance.
#   REAL_DIR=/path/to/real/texts training/recipes/release.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
run=${RUN:-runs/release}
out=${OUT:-checkpoints/probe-minilm}
real=(${REAL_DIR:+--real pool --text-dir "$REAL_DIR"})
python training/prepare.py --out "$run/data" "${real[@]}" ${REAL_DIR:+--real rest:200}
python training/train.py --data "$run/data" --out "$run" --resume --bf16 --epochs 6 --seed "${SEED:-0}"
python training/calibrate.py --run "$run" --out "$out" "${real[@]}"
python training/evaluate.py --checkpoint "$out" --write ${REAL_DIR:+--real-dir "$REAL_DIR"}
