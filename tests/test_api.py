"""The rules of the house, as tests: layers, docstrings, and what is public."""

import argparse
import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sage_timm
from sage_timm.launcher.flags import add_flags
from sage_timm.visualize.__main__ import build_parser

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sage_timm"
FILES = sorted(PACKAGE.rglob("*.py"))

SURFACES = {"surfaces", "visualize", "options"}
ALGORITHM = {"methods", "saliency", "plan", "tensors", "checks", "device", "planner"}
# Which part of the package may import each of these.
OTHERS = {
    "timm": {"surfaces", "saliency", "launcher"},
    "torchvision": {"launcher", "surfaces", "visualize"},
    "matplotlib": {"visualize"},
    "maxflow": {"methods"},
    "scipy": {"methods"},
}


def module_name(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def part(path):
    """The folder or module directly under the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Yield the modules that a file imports, in full: 'sage_timm.plan', 'torch.nn'."""
    package = ["sage_timm", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names) if module == "sage_timm" else [module]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_layers(path):
    own = part(path)
    for module in imports(path):
        package, _, inner = module.partition(".")
        target = inner.partition(".")[0]
        if package in OTHERS:
            assert own in OTHERS[package], f"{own} imports {package}"
        if package != "sage_timm" or target == own or own == "__init__":
            continue
        if own in ALGORITHM:
            assert target in ALGORITHM, f"{own} imports {target}: methods and saliency know no surface"
        if own in SURFACES:
            known = ALGORITHM | ({"options"} if own == "visualize" else set())
            assert target in known, f"{own} imports {target}: surfaces know no other surface and no launcher"
        if target == "launcher":
            assert own == "__main__", f"{own} imports launcher"
    if own in ("plan", "tensors", "checks", "device"):
        assert not [m for m in imports(path) if m.startswith(("sage_timm.methods", "sage_timm.saliency"))]


@pytest.mark.parametrize("name", ["SageMixup", "SageMix", "MethodMixup", "create_mixup", "create_saliency", "Saliency"])
def test_every_argument_is_documented(name):
    subject = getattr(sage_timm, name)
    entries = re.findall(r"^ {4}(\*{0,2}\w+(?:,\s+\*{0,2}\w+)*):", inspect.getdoc(subject), re.MULTILINE)
    documented = {name.strip(" *\n") for entry in entries for name in entry.split(",")}
    assert documented >= set(inspect.signature(subject).parameters)


# What a user may rely on: names, arguments with their defaults, and flags. A change here stands in CHANGELOG.md.
TIMMS = dict(
    mixup_alpha=1.0,
    cutmix_alpha=0.0,
    cutmix_minmax=None,
    prob=1.0,
    switch_prob=0.5,
    mode="batch",
    correct_lam=True,
    label_smoothing=0.1,
    num_classes=1000,
    multi_label=False,
)
OURS = dict(saliency=None, label_weight="mask")
NEEDED = inspect.Parameter.empty
PUBLIC = {
    "sage_timm": {
        "MethodMixup": dict(method=NEEDED) | TIMMS | OURS,
        "MixPlan": dict(source=NEEDED, mask=NEEDED, lam=NEEDED, translation=None, box=None, own=False),
        "SageMix": dict(alpha=1.0, num_classes=None, labels_getter="default")
        | dict(saliency=None, method="sage", label_weight="mask", settings=NEEDED),
        "SageMixup": TIMMS | OURS | dict(lam_max=0.6),
        "Saliency": dict(blur=0.0, grid=64, floor=0.0, mean=None, std=None),
        "create_mixup": dict(method="sage", settings=NEEDED),
        "create_saliency": dict(name=None, model=None, checkpoint=None, size=None, mean=None, std=None)
        | dict(use_labels=None, settings=NEEDED),
    },
    "sage_timm.methods": {
        "METHODS": None,
        "Method": None,
        "SAGE": dict(lam_max=0.6),
        "Mixup": {},
        "CutMix": {},
        "SaliencyMix": {},
        "ResizeMix": dict(scale_min=0.1, scale_max=0.8),
        "GuidedMixup": dict(blur=7, blur_sigma=3.0),
        "PuzzleMix": dict(n_labels=3, beta=1.2, gamma=0.5, eta=0.2, neigh_size=None, t_eps=0.8, t_size=None)
        | dict(block_num=None),
        "CoMixup": dict(block_num=4, part=20, beta=0.32, gamma=1.0, thres=0.83, eta=0.05, omega=0.001, niter=4),
        "create_method": dict(name=NEEDED, settings=NEEDED),
    },
    "sage_timm.saliency": dict.fromkeys(["SOURCES", "Saliency", "Source", "create_saliency", "resolve"]),
    "sage_timm.visualize": dict.fromkeys(["draw_mixed", "draw_plans", "load_images"]),
}
OF_SALIENCY = "model", "checkpoint", "size", "blur", "grid", "floor"
SALIENCY_FLAGS = ["--saliency", *(f"--saliency-{name}" for name in OF_SALIENCY)]
MIXER_FLAGS = ["--mixer", "--mixer-kwargs", "--mixer-label-weight"]
LAUNCHER = ["--sage", "--save-mixed", *(f"--saliency-{name}" for name in ("mean", "std", "use-labels"))]
LAUNCHER += MIXER_FLAGS + SALIENCY_FLAGS
VISUALIZE = {"--output": "figure.png", "--count": 6, "--size": 224, "--lam": 0.5, "--seed": 0}
VISUALIZE |= dict.fromkeys(MIXER_FLAGS + SALIENCY_FLAGS)


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_and_their_defaults(module):
    found = importlib.import_module(module)
    assert sorted(found.__all__) == sorted(PUBLIC[module])
    for name, defaults in PUBLIC[module].items():
        if defaults is not None:
            parameters = inspect.signature(getattr(found, name)).parameters
            assert {key: parameter.default for key, parameter in parameters.items()} == defaults, name
            assert list(parameters) == list(defaults), name


def test_flags_and_their_defaults():
    launcher = argparse.ArgumentParser(add_help=False)
    add_flags(launcher)
    assert sorted(launcher._option_string_actions) == sorted(LAUNCHER)
    assert vars(launcher.parse_args([])) == {}, "flags that were not given store nothing"
    visualize = build_parser()._option_string_actions
    assert visualize.keys() - {"-h", "--help", "-o"} == VISUALIZE.keys()
    assert {flag: visualize[flag].default for flag in VISUALIZE} == VISUALIZE


IMPORT = """
import socket, sys, time
import timm.data, torchvision

socket.socket.connect = lambda *_: sys.exit("the import reaches for the network")
before, start = set(sys.modules), time.process_time()
import sage_timm, sage_timm.launcher.cli
print(time.process_time() - start, *{"matplotlib", "maxflow", "scipy", "sklearn"} & (set(sys.modules) - before))
"""


@pytest.mark.slow
def test_importing_the_package_is_quick_and_reaches_for_nothing(tmp_path):
    """Beyond timm and torchvision: 0.3 s of the processor at most, no optional library, no network."""
    run = subprocess.run([sys.executable, "-c", IMPORT], cwd=tmp_path, capture_output=True, text=True)
    seconds, *optional = run.stdout.split()
    assert float(seconds) < 0.3 and optional == [], run.stdout


SURFACE = """
import torch

from sage_timm import MethodMixup, MixPlan, SageMix, SageMixup, create_mixup, create_saliency
from sage_timm.methods import SAGE, Method, Mixup, create_method

images, target = torch.rand(4, 3, 8, 8), torch.arange(4)
saliency = create_saliency("gradient", model="resnet18", size=64, blur=None)
mixup_fn: MethodMixup = SageMixup(0.8, 1.0, mode="elem", num_classes=4, saliency=saliency, lam_max=0.5)
mixed: tuple[torch.Tensor, torch.Tensor] = mixup_fn(images, target)
plan: MixPlan | None = mixup_fn.plan(images, target)
other: MethodMixup = create_mixup("puzzlemix", num_classes=4, n_labels=2)
methods: list[Method] = [SAGE(0.5), Mixup(), create_method("comixup")]
by_hand: MethodMixup = MethodMixup(SAGE(), num_classes=4, saliency="spectral")
transform = SageMix(num_classes=4, saliency="spectral", alpha=1.0)
maps: torch.Tensor = saliency(images, target)
MethodMixup(SAGE(), mixup_alpha="1")  # wrong
MethodMixup(SAGE(), nonsense=1)  # wrong
mixup_fn(images)  # wrong
MethodMixup("sage")  # wrong
mixup_fn.plan(images, target).mask  # wrong: it may be None
number: int = mixup_fn(images, target)  # wrong
"""
MYPY = """
[mypy]
follow_imports = silent
[mypy-torch.*,torchvision.*,timm.*,numpy.*,scipy.*,matplotlib.*,PIL.*]
follow_imports = skip
"""


@pytest.mark.slow
def test_types_of_the_public_names_are_of_use(tmp_path):
    (tmp_path / "mypy.ini").write_text(MYPY)
    (tmp_path / "surface.py").write_text(SURFACE)
    command = [sys.executable, "-m", "mypy", "--cache-dir", tmp_path, "--config-file", tmp_path / "mypy.ini"]
    found = subprocess.run([*command, tmp_path / "surface.py"], capture_output=True, text=True, cwd=ROOT).stdout
    lines = {int(number) for number in re.findall(r"surface\.py:(\d+): error", found)}
    assert lines == {n for n, line in enumerate(SURFACE.splitlines(), 1) if "# wrong" in line}, found
