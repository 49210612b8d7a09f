"""Time the search, a call and a training step, each against its alternative in the same process.

    python -m scripts.bench.speed [--json FILE] [--against FILE]

Alternatives are timed in turn, A B A B (the search: one after the other), after a warm-up, the device synchronised
around each call, on CUDA around ten training steps in a row. Printed are the median with the 10th and 90th percentile,
peak memory of one more call (allocated on CUDA; growth of the process on CPU), and the number of operations, views
apart, that a call hands to the device. A compiled step is timed on CUDA alone;
Puzzle Mix needs the extra `methods`.
"""

import argparse
import json
import runpy
from contextlib import nullcontext
from datetime import date
from pathlib import Path

import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy

from sage_timm import SageMixup, create_mixup, create_saliency
from sage_timm.methods.sage_search import TIE, rearrange, retained_saliency
from sage_timm.saliency.auxiliary import DEFAULT_MODEL
from sage_timm.tensors import gaussian_blur, unit_mass

from .certify import certify
from .measure import machine, operations, peak_memory, timed

# Calls that are timed: title, method, saliency (None: the default).
CALLS = (
    ("SageMixup", "sage", None),
    ("SageMixup, spectral", "sage", "spectral"),
    ("Puzzle Mix", "puzzlemix", None),
    ("Co-Mixup", "comixup", None),
)


def search_in_a_loop(own, other, fraction=0.01):
    """The authors' way: 1 % of the translations, one draw for the batch, a Python loop over the images."""
    batch, _, height, width = own.shape
    rows, columns = 2 * height - 1, 2 * width - 1
    drawn = torch.randperm(rows * columns, device=own.device)[: max(1, int(fraction * rows * columns))]
    dy, dx = drawn // columns - (height - 1), drawn % columns - (width - 1)
    move = torch.eye(2, 3, device=own.device).repeat(len(drawn), 1, 1)
    move[:, 0, 2], move[:, 1, 2] = -2 * dx / (3 * width), -2 * dy / (3 * height)
    grid = torch.nn.functional.affine_grid(move, [len(drawn), 1, 3 * height, 3 * width], align_corners=False)
    margins = (width, width, height, height)
    best = []
    for i in range(batch):
        a, b = (torch.nn.functional.pad(m[i : i + 1], margins).expand(len(drawn), -1, -1, -1) for m in (own, other))
        moved = torch.nn.functional.grid_sample(b, grid, mode="nearest", align_corners=False)
        mask = a / (a + moved).clamp_min(1e-16)
        retained = (a * mask + moved * (1 - mask))[:, :, height : 2 * height, width : 2 * width].sum((1, 2, 3))
        best.append(retained.argmax())
    best = torch.stack(best)
    return torch.stack([dy[best], dx[best]], 1)


def report(title, functions, device, repeats, in_turn=True, calls=1, **extra):
    blocks = [functions] if in_turn else [{name: function} for name, function in functions.items()]
    times = {name: each for block in blocks for name, each in timed(block, device, repeats, calls).items()}
    memory = {name: peak_memory(function, device) for name, function in functions.items()}
    launched = {name: operations(function) for name, function in functions.items()}
    print(f"\n{title}")
    for name, (median, low, high) in times.items():
        span, size = f"({low:.2f} to {high:.2f})", f"{memory[name]:8.0f} MiB"
        print(f"  {name:42} {median:9.2f} ms  {span}  {size}  {launched[name]:6} operations")
    first, *others = functions
    ratios = {name: times[name][0] / times[first][0] for name in others}
    for name, ratio in ratios.items():
        print(f"  {name} / {first}: {ratio:.3f}")
    for key, value in extra.items():
        print(f"  {key.replace('_', ' ')}: {value}")
    return {"title": title, "ms": times, "MiB": memory, "operations": launched, "ratios": ratios, **extra}


def pair_of_maps(batch, size, device):
    """Make two batches of blurred, partly peaked maps with a mixing ratio of 0.35."""
    noise = gaussian_blur(torch.randn(2 * batch, 1, size, size).abs() ** 2, size / 32)
    own, other = unit_mass(noise.to(device)).chunk(2)
    return 0.35 * own, 0.65 * other


def search(size, batch, loop, device, repeats, earlier=None):
    own, other = pair_of_maps(batch, size, device)
    functions = {"all translations, FFT": lambda: rearrange(own, other)}
    translation = rearrange(own, other)
    certified = certify(own, other, translation)
    retained = retained_saliency(own, other, translation[:, None])[:, 0]
    extra = {"certified_optimal": f"{int(certified.sum())} of {batch}", "retained": round(float(retained.mean()), 4)}
    if loop:
        functions["1 % of them, loop over the images"] = lambda: search_in_a_loop(own, other)
        sampled = retained_saliency(own, other, search_in_a_loop(own, other)[:, None])[:, 0]
        if not (retained >= sampled - TIE).all():
            raise AssertionError("the search over all translations retains less than the sample")
        extra["retained_by_the_1_%"] = round(float(sampled.mean()), 4)
    if earlier:
        functions["all translations, the earlier search"] = lambda: earlier(own, other)
    title = f"(a) search, {size} x {size} grid, batch {batch}, {(2 * size - 1) ** 2} translations"
    # The loop's memory, of a GiB, would leave the allocator in a state that no user of the search meets.
    return report(title, functions, device, repeats, in_turn=False, **extra)


def auxiliary():
    """Create the default saliency; its speed does not depend on the weights, which are random."""
    torch.manual_seed(0)
    model = timm.create_model(DEFAULT_MODEL)
    return create_saliency(model=model, size=112, mean=(0.0,) * 3, std=(1.0,) * 3)


def call(batch, size, device, repeats):
    images, target = torch.randn(batch, 3, size, size, device=device), torch.arange(batch, device=device) % 1000
    theirs, saliency = Mixup(mode="elem", mixup_alpha=0.8), auxiliary()
    functions = {
        "timm Mixup": lambda: theirs(images.clone(), target),
        "the default saliency alone": lambda: saliency(images),
    }
    for title, method, source in CALLS:
        mixup = create_mixup(method, mode="elem", saliency=source or saliency)
        mixed, weights = mixup(images, target)
        if not (mixed.isfinite().all() and torch.allclose(weights.sum(1), torch.ones_like(weights[:, 0]))):
            raise AssertionError("a mixed batch must be finite and its target rows sum to 1")
        functions[title] = lambda mixup=mixup: mixup(images, target)
    return report(f"(b) one call, elem mode, {batch} images of {size} x {size}", functions, device, repeats)


def step(name, batch, size, device, repeats, compiled=False):
    model = timm.create_model(name).to(device, memory_format=torch.channels_last).train()
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9), SoftTargetCrossEntropy()
    model = torch.compile(model) if compiled else model
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    target = torch.arange(batch, device=device) % 1000
    cuda = device.type == "cuda"

    def training_step(mixup):
        x, weights = mixup(images.clone(), target)
        with torch.autocast("cuda", torch.bfloat16) if cuda else nullcontext():
            loss = loss_fn(model(x), weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    theirs, saliency = Mixup(mixup_alpha=0.8), auxiliary()
    functions = {"step with timm Mixup": lambda: training_step(theirs)}
    for title, source in (("step with SageMixup", saliency), ("step with SageMixup, spectral", "spectral")):
        ours = SageMixup(mixup_alpha=0.8, saliency=source)
        functions[title] = lambda ours=ours: training_step(ours)
    how = ("bf16 autocast" if cuda else "float32") + (", compiled" if compiled else "")
    title = f"(c) {name} step, {batch} images of {size} x {size}, channels_last, {how}"
    return report(title, functions, device, repeats, calls=10 if cuda else 1)


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--against", metavar="FILE", help="earlier file with a `rearrange` to be timed, too")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to see that everything runs")
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    device = torch.device(args.device)
    cuda = device.type == "cuda"
    print(f"{machine(device)}, {date.today()}")
    grids = (
        [(8, 2, True), (12, 2, False)]
        if args.tiny
        else [(32, 64, True), (64, 64, True), (112, 64, False), (224, 64, False)]
    )
    batch = 4 if args.tiny else 128 if cuda else 32
    sizes, models = ((32,), ("test_resnet",)) if args.tiny else ((32, 64, 224), ("resnet18", "resnet50"))
    if args.against and not Path(args.against).is_file():
        raise SystemExit(f"error: --against must name a file with a `rearrange`, got {args.against}")
    earlier = runpy.run_path(args.against)["rearrange"] if args.against else None
    results = [search(grid, n, loop, device, args.repeats, earlier) for grid, n, loop in grids]
    results += [call(batch, size, device, args.repeats) for size in sizes]
    for model in models:
        results += [
            step(model, batch, sizes[-1], device, args.repeats, compiled)
            for compiled in ((False, True) if cuda else (False,))
        ]
    if args.json:
        Path(args.json).write_text(
            json.dumps({"machine": machine(device), "date": str(date.today()), "results": results}, indent=1)
        )


if __name__ == "__main__":
    main()
