#!/usr/bin/env bash
# A release checkpoint, from the annotations to the model card: four and a half hours on two CPU cores. Killed and run
# again, it goes on from the last whole epoch. Another SEED shows how much of a figure is chance; ROUNDS=1 stops after
# the first round, in half the time.
#   REAL_DIR=/path/to/real/texts training/recipes/release.sh
# REAL_DIR holds the texts of the traces that annotations/real points to. `cot-probe annotations fetch` makes it, but
# without the instructions that most of them were given ("context"), which the shipped checkpoint was trained with:
# expect other figures then, of command_disobedience above all. Without REAL_DIR only written traces are used, and there
# is no first stage.
set -euo pipefail
cd "$(dirname "$0")/../.."
run=${RUN:-runs/release-${SEED:-0}}
out=${OUT:-checkpoints/probe-minilm}
real=(${REAL_DIR:+--real pool --text-dir "$REAL_DIR"})
calibrate=("${real[@]}" ${REAL_DIR:+--passages})
python training/prepare.py --out "$run/data" "${real[@]}" ${REAL_DIR:+--real rest:200 --passages}

# Of each round: epochs, rate of the adapter, rate of the heads. A round goes on from the one before, with a seed of its
# own, or it would be shown the very stretches and dilutions of the one before. The release is the mean of the rounds'
# weights.
rounds=("6 5e-4 1e-3" "3 3e-4 6e-4" "3 3e-4 6e-4")
begun=() ended=()
for round in $(seq 0 $((${ROUNDS:-3} - 1))); do
  if ((round > 0)); then
    last="$run/$((round - 1))"
    python training/calibrate.py --run "$last" --out "$last/checkpoint" --adapter-scales 1 "${calibrate[@]}"
    begun=(--begun "$last/checkpoint")
  fi
  read -r epochs rate head_rate <<< "${rounds[$round]}"
  python training/train.py --data "$run/data" --out "$run/$round" --resume --bf16 --epochs "$epochs" \
    --seed $((${SEED:-0} + 100 * round)) --learning-rate "$rate" --head-rate "$head_rate" "${begun[@]}"
  ended+=("$run/$round")
done
python training/calibrate.py --run "${ended[@]}" --out "$out" --adapter-scales 1,0.85,0.7 "${calibrate[@]}"
rm -f "$out"/first_stage.*
if [[ -n ${REAL_DIR:-} ]]; then
  python training/first_stage.py --checkpoint "$out" --real-dir "$REAL_DIR" --bf16 --limit 300
fi
python training/evaluate.py --checkpoint "$out" --write --new-card ${REAL_DIR:+--real-dir "$REAL_DIR"}
