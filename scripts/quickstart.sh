#!/usr/bin/env bash
# From a bare machine to a run with SAGE and a picture of what it mixes: small photographs of ten objects, at most three
# minutes on two cores after the install, no download but the packages.
#   bash scripts/quickstart.sh
#   bash scripts/quickstart.sh compare      SAGE beside no mixing and timm's, three seeds each: some ten minutes more
# Everything is written to quickstart/; what is there already is reused. PYTHON=python bash scripts/quickstart.sh runs it
# in an environment that has the package with the extra `dev`, in place of a new one in .venv.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
data=quickstart/objects

if [ ! -d "$data" ]; then
    echo "== Making 1,000 images of small objects from photographs: $data"
    rm -rf "$data.part"
    $python -m scripts.objects "$data.part"
    mv "$data.part" "$data"
fi

if [ "${1:-}" = compare ]; then
    # One thread for each seed at once; what is missing after that, the last command makes good or explains.
    study=(-m scripts.study --data-dir "$data" --test-split validation --size 48 --model wide --epochs 60 --batch-size 32
        --prob 0.5 --precision fp32 --device cpu --json quickstart/runs.jsonl --arms none cutmix mixup+cutmix network)
    echo "== Training without mixing, with CutMix, with Mixup + CutMix and with SAGE, whose saliency comes from the package's network"
    printf '%s\n' 0 1 2 | OMP_NUM_THREADS=1 xargs -P 2 -I{} $python "${study[@]}" --seeds {} 2>&1 |
        grep --line-buffered ", seed " || true
    $python "${study[@]}" --seeds 0 1 2 --plot quickstart/comparison.png --summary
    echo "Three seeds are few: two equal arms differ by more than two standard errors in about one of five comparisons."
    echo "The comparison: quickstart/comparison.png"
    exit
fi

if [ ! -d quickstart/run ]; then
    echo "== Training with SAGE: -m sage_timm before a script like timm's train.py, --sage after it"
    rm -rf quickstart/run.part
    $python -m sage_timm scripts/train.py --data-dir "$data" --num-classes 10 --input-size 3 64 64 --model resnet10t \
        --epochs 25 --warmup-epochs 2 --batch-size 32 --lr 0.1 --scale 0.6 1.0 --workers 0 --device cpu \
        --output quickstart --experiment run.part --mixup 1.0 --mixup-prob 0.5 --sage
    mv quickstart/run.part quickstart/run
fi

echo "== Drawing training images as SAGE mixes them"
$python -m sage_timm.visualize "$data/train" --count 6 --size 96 -o quickstart/mixed.png
cat <<END

Look at   quickstart/mixed.png        images, where the network sees their objects, and what SAGE makes of each pair
          quickstart/run/summary.csv  loss and validation accuracy of each epoch; the weights stand beside it
Go on by  $python -m sage_timm.visualize FOLDER -o mixed.png   whether it finds the objects in images of yours
          $python -m sage_timm train.py ... --sage              your own training: README.md, "Use"
          bash scripts/quickstart.sh compare        whether SAGE pays here
END
