"""Deliberate breaks of the search, the plan's shortcut and the counted operations."""

SEARCH, SAGE = "tests/methods/test_sage_search.py", "tests/methods/test_sage.py"
METHODS, FAKE = "tests/methods/test_puzzlemix.py", "tests/surfaces/test_fake_cuda.py"
CODE = "sage_timm/methods/sage_search.py"

MUTANTS = [
    # what is broken, file, text, replacement, tests
    (
        "poles that miss the smallest cells",
        CODE,
        "exponent = torch.linspace(0, 1, terms",
        "exponent = torch.linspace(0, 0.3, terms",
        SEARCH,
    ),
    (
        "a term not weighted by its pole",
        CODE,
        "inside[:, 0, 1:].mul_(4 * pole[:, 0])",
        "inside[:, 0, 1:].mul_(4 * pole[:, 0, :1])",
        SEARCH,
    ),
    ("visible mass with the wrong sign", CODE, ":height, :width] = -1", ":height, :width] = 1", SEARCH),
    ("the last part keeps what the one before left", CODE, "inside[:, 1, 0] = part[:, 1, 0]", "pass", SEARCH),
    ("0 / 0 retained", CODE, ".nansum((2, 3))", ".sum((2, 3))", SEARCH),
    ("error bound ten times too small", CODE, ".prod(1).sqrt()", ".prod(1).sqrt() / 10", SEARCH),
    (
        "certificate without the error bound",
        CODE,
        "bound = left_out + largest_error(own, other, FINE_TERMS)[:, None]",
        "bound = left_out",
        SEARCH,
    ),
    ("every translation certified", CODE, "return (reached >= (1 - TIE)", "return (reached >= 0 * (1 - TIE)", SEARCH),
    (
        "parts of the exact evaluation in the wrong order",
        CODE,
        "torch.cat(retained)",
        "torch.cat(retained[::-1])",
        SEARCH,
    ),
    ("parts of the batch in the wrong order", CODE, "torch.cat(spectra)", "torch.cat(spectra[::-1])", SEARCH),
    ("own image taken for every source", "sage_timm/plan.py", "if self.own and k == 0:", "if self.own:", SAGE),
    (
        "a plan of Puzzle Mix's own moves taken as unmoved",
        "sage_timm/methods/puzzlemix.py",
        "torch.stack(moves, 1))",
        "torch.stack(moves, 1), own=True)",
        METHODS,
    ),
    ("a constant made on the wrong device", CODE, "terms, device=maps.device)", "terms)", FAKE),
    (
        "a search that waits",
        CODE,
        "largest = largest.clamp_min(",
        "largest = (largest + 0 * float(largest.max())).clamp_min(",
        FAKE,
    ),
]
