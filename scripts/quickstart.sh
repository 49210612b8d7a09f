#!/usr/bin/env bash
# From a bare machine to a SAGE run, a picture of what it mixes, and a comparison with plain training and with timm's
# Mixup + CutMix: scikit-learn's digits, small on a cluttered texture; no download but the packages.
# Everything is written to quickstart/; what is there already is reused. PYTHON=python bash scripts/quickstart.sh runs it
# in an environment that has the package with the extra `dev`, in place of a new one in .venv.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
data=quickstart/digits
recipe=(--data-dir "$data" --train-split train --val-split test --num-classes 10 --input-size 1 32 32 --mean 0.5 --std 0.5
    --model test_resnet --batch-size 32 --workers 0 --lr 0.1 --warmup-epochs 1 --no-aug --device cpu
    --log-interval 50 --output quickstart)

if [ ! -d "$data" ]; then
    echo "== 1. Writing scikit-learn's digits, each a quarter of its frame, to $data"
    rm -rf "$data.part"
    $python - "$data.part" <<'PYTHON'
import sys
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_digits
from tqdm import tqdm

from scripts.study.data import place

digits = load_digits()
pixels = torch.from_numpy(digits.images * 255 / 16).round().byte()[:, None]
for split, chosen in {"train": range(1437), "test": range(1437, 1797)}.items():
    generator = torch.Generator().manual_seed(len(chosen))
    framed, _ = place(pixels[list(chosen)], (0.25,), 32, generator)
    for i, image in tqdm(zip(chosen, framed[:, 0].numpy()), split, len(chosen), leave=False, disable=None):
        folder = Path(sys.argv[1], split, str(digits.target[i]))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i:04}.png")
PYTHON
    mv "$data.part" "$data"
fi

if [ ! -f quickstart/auxiliary/model_best.pth.tar ]; then
    echo "== 2. Training the auxiliary model that the saliency comes from, by a script like timm's train.py"
    rm -rf quickstart/auxiliary
    $python scripts/train.py "${recipe[@]}" --epochs 16 --experiment auxiliary
fi

if [ ! -f quickstart/sage/model_best.pth.tar ]; then
    echo "== 3. The same script with SAGE: -m sage_timm before it, --sage after it (a few epochs, to see it run)"
    rm -rf quickstart/sage
    $python -m sage_timm scripts/train.py "${recipe[@]}" --epochs 4 --experiment sage --mixup 1.0 \
        --sage --saliency-checkpoint quickstart/auxiliary/model_best.pth.tar
fi

echo "== 4. Drawing training images as SAGE mixes them"
$python -m sage_timm.visualize "$data/train" --count 6 --size 32 -o quickstart/mixed.png \
    --saliency-checkpoint quickstart/auxiliary/model_best.pth.tar

echo "== 5. Comparing no mixing, Mixup + CutMix, and SAGE, whose saliency comes from a frozen model of its own"
# Few images and many passes, so that a network without mixing overfits. Chosen without SAGE, on
# --held-out 500 and --seeds 100 101 102 103: no mixing 93.2 %, Mixup + CutMix 96.2 %. The test's digits are by others.
study=(-m scripts.study --data-dir "$data" --arms none mixup+cutmix feature --model narrow --train-images 600
    --epochs 120 --auxiliary-epochs 60 --batch-size 32 --lr 0.1 --prob 0.5 --precision fp32 --no-flip --device cpu
    --cache quickstart/study --json quickstart/runs.jsonl)
# The seeds at once, a thread each; what is missing after that, the last command makes good or explains.
printf '%s\n' 0 1 2 | OMP_NUM_THREADS=1 xargs -P 3 -I{} $python "${study[@]}" --seeds {} 2>&1 |
    grep --line-buffered ", seed " || true
$python "${study[@]}" --seeds 0 1 2 --plot quickstart/comparison.png --summary
echo "Three seeds are few: two equal arms differ by more than two standard errors in about one of five comparisons."
echo "The mixed images: quickstart/mixed.png; the comparison: quickstart/comparison.png"
