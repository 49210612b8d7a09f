"""Breaks of the package's public face: (what, file, text, replacement, tests)."""

MUTANTS = [
    ('`prob` of MethodMixup not documented', 'sage_timm/mixup.py', '        prob: probability of mixing a batch, a pair or an element.\n', '', 'tests/test_api.py'),
    ('`mode` of MethodMixup not documented', 'sage_timm/mixup.py', "        mode: one draw per 'batch', 'pair' or 'elem'. What a method looks at is each image's own in every mode.\n", '', 'tests/test_api.py'),
    ('`search_fraction` of SageMixup not documented', 'sage_timm/mixup.py', "        search_fraction: chance of each translation to be tried, in (0, 1]; 1 tries all. Drawn from torch's generator.\n", '', 'tests/test_api.py'),
    ("a file of hundreds of lines", "sage_timm/methods/mixup.py", '"""Mixup (Zhang', "\n" * 400 + '"""Mixup (Zhang', "tests/test_api.py"),
    ('MethodMixup(SAGE()) is an error for mypy', 'sage_timm/methods/__init__.py', '    alpha: ClassVar[float]\n', '    alpha: float\n', 'tests/test_api.py'),
]  # fmt: skip
