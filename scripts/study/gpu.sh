#!/usr/bin/env bash
# What SAGE is worth to a ResNet-18 on real photographs of small objects, in 10 minutes of one GPU: as many seeds as fit.
#
#     python -m scripts.study.photographs TINY_IMAGENET PHOTOGRAPHS    # all that have boxes of 3 to 25 % of the frame
#     bash scripts/study/gpu.sh PHOTOGRAPHS RUNS.jsonl [FLAG ...]      # flags of `python -m scripts.study`
#
# The same command goes on where it was interrupted or out of time. On a CPU, to see it run:
#     bash scripts/study/gpu.sh PHOTOGRAPHS RUNS.jsonl --train-images 400 --batch-size 64 --epochs 1 --auxiliary-epochs 1
set -euo pipefail
python=${PYTHON:-python}
sage=$($python -c "from scripts.study.arms import SOURCES; print('network' if 'network' in SOURCES else 'feature')")
$python -m scripts.study --data-dir "$1" --test-split validation --boxes "$1/boxes.json" \
    --model resnet18 --epochs 40 --auxiliary-epochs 20 --batch-size 256 --lr 0.4 --prob 0.5 --seeds 0 1 2 3 4 5 \
    --arms mixup+cutmix cutmix "$sage" "$sage+cutmix" --minutes 9 --cache "$(dirname "$2")" --json "$2" "${@:3}"
