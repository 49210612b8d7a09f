"""Breaks of SAGE's search: (what, file, text, replacement, tests)."""

MUTANTS = [
    ('dy and dx swapped in translate', 'sage_timm/tensors.py', '[:, None] - dy)', '[:, None] - dx)', 'tests/methods/test_sage_search.py'),
    ('partner moves the other way', 'sage_timm/tensors.py', 'device=images.device) - dx)', 'device=images.device) + dx)', 'tests/methods/test_sage_search.py'),
    ('outside the frame not 0', 'sage_timm/tensors.py', 'F.pad(images, (1, 1, 1, 1), value=outside)', 'F.pad(images, (1, 1, 1, 1), mode="replicate")', 'tests/methods/test_sage_search.py'),
    ('correlation instead turned round', 'sage_timm/methods/sage_search.py', 'other.flip(-2, -1)', 'other', 'tests/methods/test_sage_search.py'),
    ('no zero padding: circular overlap', 'sage_timm/methods/sage_search.py', 'size = (_fast_length(2 * height - 1), _fast_length(2 * width - 1))', 'size = (_fast_length(height + 1), _fast_length(width + 1))', 'tests/methods/test_sage_search.py'),
    ('no exact re-evaluation', 'sage_timm/methods/sage_search.py', 'TOP = 10 ', 'TOP = 1 ', 'tests/methods/test_sage_search.py'),
    ('candidates ignored', 'sage_timm/methods/sage_search.py', 'value.masked_fill(~candidates.flatten(1), -torch.inf)', 'value', 'tests/methods/test_sage_search.py'),
    ('ties go to the longest', 'sage_timm/methods/sage_search.py', 'length = translation.square().sum(2)', 'length = -translation.square().sum(2)', 'tests/methods/test_sage_search.py'),
]  # fmt: skip
