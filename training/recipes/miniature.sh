#!/usr/bin/env bash
# The whole chain in about two minutes on two CPU cores: 24 traces of each split, one epoch.
# It shows that every step runs; its checkpoint is of no use.
set -euo pipefail
cd "$(dirname "$0")/../.."
run=${RUN:-$(mktemp -d)}
python training/prepare.py --out "$run/data" --limit 24 --max-tokens 320
python training/train.py --data "$run/data" --out "$run" --epochs 1 --lora-rank 4 --max-tokens 320
python training/calibrate.py --run "$run" --out "$run/probe-miniature"
python training/evaluate.py --checkpoint "$run/probe-miniature" --split dev --draws 20
