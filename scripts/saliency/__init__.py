"""Train a saliency model: `python -m scripts.saliency`, see docs/saliency-model.md."""
