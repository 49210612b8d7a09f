"""Breaks of scripts and pictures: (what, file, text, replacement, tests)."""

MUTANTS = [
    ('pictures: --mixer ignored', 'sage_timm/visualize.py', 'for name in args.mixer:', 'for name in ["sage"]:', 'tests/scripts/test_scripts.py'),
    ('pictures: weights of equal labels not added up', 'sage_timm/visualize.py', 'total.get(names[source], 0) + share', 'share', 'tests/scripts/test_scripts.py'),
]  # fmt: skip
