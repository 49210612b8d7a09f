"""The study of where SAGE pays: `python -m scripts.study`, see README.md."""
