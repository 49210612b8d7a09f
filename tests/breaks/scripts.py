"""Breaks of scripts and pictures: (what, file, text, replacement, tests)."""

MUTANTS = [
    ('pictures: --mixer ignored', 'sage_timm/visualize/__main__.py', 'for name in mixers:', 'for name in ["sage"]:', 'tests/scripts/test_scripts.py'),
    ('pictures: weights of equal labels not added up', 'sage_timm/visualize/figures.py', 'total.get(names[source], 0) + share', 'share', 'tests/scripts/test_scripts.py'),
]  # fmt: skip
