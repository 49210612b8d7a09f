#!/usr/bin/env bash
# From a bare machine to a SAGE run, its accuracy and a picture of what it mixes, on scikit-learn's digits: no download
# but the packages. Everything is written to quickstart/; what is there already is reused.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
python=.venv/bin/python
data=quickstart/digits
recipe=(--data-dir "$data" --train-split train --val-split test --num-classes 10 --input-size 1 32 32 --mean 0.5 --std 0.5
    --model test_resnet --batch-size 64 --workers 0 --lr 0.1 --warmup-epochs 1 --scale 0.6 1 --device cpu
    --log-interval 10 --output quickstart)
accuracy() { printf '%.1f %%' "$(tail -n 1 "quickstart/$1/summary.csv" | tr -d '\r' | cut -d , -f 3)"; }

if [ ! -d "$data" ]; then
    echo "== Writing scikit-learn's digits to $data"
    $python - "$data" <<'PYTHON'
import sys
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

digits = load_digits()
for i, (pixels, label) in enumerate(zip(digits.images, digits.target)):
    folder = Path(sys.argv[1], "test" if i % 5 == 0 else "train", str(label))
    folder.mkdir(parents=True, exist_ok=True)
    digit = Image.fromarray((pixels * 255 / 16).astype("uint8")).resize((20, 20), Image.BICUBIC)
    frame = Image.new("L", (32, 32))
    frame.paste(digit, (6, 6))
    frame.save(folder / f"{i:04}.png")
PYTHON
fi

if [ ! -f quickstart/auxiliary/model_best.pth.tar ]; then
    echo "== Training the auxiliary model that the saliency comes from"
    rm -rf quickstart/auxiliary
    $python scripts/train.py "${recipe[@]}" --epochs 6 --experiment auxiliary
fi

if [ ! -f quickstart/sage/model_best.pth.tar ]; then
    echo "== Training with SAGE and CutMix, the saliency from the frozen auxiliary model"
    rm -rf quickstart/sage
    $python -m sage_timm scripts/train.py "${recipe[@]}" --epochs 12 --experiment sage --mixup 1.0 --cutmix 1.0 \
        --sage --saliency-checkpoint quickstart/auxiliary/model_best.pth.tar
fi

echo "== Drawing training images as SAGE mixes them"
$python -m sage_timm.visualize "$data/train" --count 6 --size 32 -o quickstart/mixed.png \
    --saliency-checkpoint quickstart/auxiliary/model_best.pth.tar

echo "Top-1 accuracy on the test digits: $(accuracy auxiliary) auxiliary model (6 epochs), $(accuracy sage) SAGE (12 epochs)"
echo "The mixed images: quickstart/mixed.png"
