#!/usr/bin/env bash
# A release checkpoint, from the annotations to the model card. Two hours on two CPU cores.
# REAL_DIR holds the texts of annotations/real (cot-probe annotations fetch makes it).
# Another SEED shows how much of a figure is chance.
#   REAL_DIR=/path/to/real/texts training/recipes/release.sh
# BEGUN goes on from an earlier checkpoint instead of from fresh weights. The shipped one (the sixth release) was made
# so from the fifth, with annotations and scripts as they were before the seventh (training/LOG.md): EPOCHS=3 RATE=3e-4
# HEAD_RATE=6e-4. With those of today this recipe makes another one.
set -euo pipefail
cd "$(dirname "$0")/../.."
run=${RUN:-runs/release}
out=${OUT:-checkpoints/probe-minilm}
real=(${REAL_DIR:+--real pool --text-dir "$REAL_DIR"})
python training/prepare.py --out "$run/data" "${real[@]}" ${REAL_DIR:+--real rest:200 --passages}
python training/train.py --data "$run/data" --out "$run" --resume --bf16 --seed "${SEED:-0}" --epochs "${EPOCHS:-6}" \
  --learning-rate "${RATE:-5e-4}" --head-rate "${HEAD_RATE:-1e-3}" ${BEGUN:+--begun "$BEGUN"}
python training/calibrate.py --run "$run" --out "$out" "${real[@]}" ${REAL_DIR:+--passages} --adapter-scales "${SCALES:-1,0.85,0.7}"
python training/evaluate.py --checkpoint "$out" --write ${REAL_DIR:+--real-dir "$REAL_DIR"}
