"""Time the search, the saliency, a call and a training step, each beside its alternatives in the same process.

    OMP_NUM_THREADS=1 python -m scripts.bench.speed [PART ...]

Alternatives are timed in turn, A B A B, after a warm-up: on a CPU by the time of the process, over all threads, on CUDA
by the clock, ten steps in a row. Printed are the median with the 10th and 90th percentile, the median of the ratios
within a round, peak memory of one more call (allocated on CUDA; growth of the process on a CPU), and the number of
operations, views apart, that a call hands to the device. 'feature' is that of the teacher, tf_efficientnet_lite0 with
ImageNet weights, at 112 px; 'network' is the package's.
"""

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import date

import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy

from sage_timm import SageMixup, create_mixup, create_saliency
from sage_timm.methods.sage_search import TIE, rearrange, retained_saliency
from sage_timm.tensors import gaussian_blur, unit_mass
from scripts.saliency.teacher import packaged_model

from .certify import certify, number_of
from .measure import machine, operations, peak_memory, spread, timed

CALLS = {"SAGE": "sage", "Puzzle Mix": "puzzlemix", "Co-Mixup": "comixup"}


def create_sources():
    """Create the saliency sources by name."""
    teacher = create_saliency("feature", model=packaged_model(), size=112, mean=(0.0,) * 3, std=(1.0,) * 3)
    return {"network": create_saliency(), "feature": teacher, "spectral": create_saliency("spectral")}


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


def report(title, functions, device, repeats, calls=1, **extra):
    """Measure the functions, print it, and return the figures."""
    times = timed(functions, device, repeats, calls)
    memory = {name: peak_memory(function, device) for name, function in functions.items()}
    launched = {name: operations(function) for name, function in functions.items()}
    first = next(iter(functions))
    ratios = {name: (each / times[first]).median().item() for name, each in times.items()}
    print(f"\n{title}")
    for name, each in times.items():
        median, low, high = spread(each)
        print(
            f"  {name:36} {median:9.2f} ms  {f'({low:.2f} to {high:.2f})':22} {ratios[name]:8.3f} times"
            f"{memory[name]:8.0f} MiB {launched[name]:6} operations"
        )
    for key, value in extra.items():
        print(f"  {key.replace('_', ' ')}: {value}")
    spreads = {name: spread(each) for name, each in times.items()}
    return {"title": title, "ms": spreads, "ratios": ratios, "MiB": memory, "operations": launched, **extra}


def pair_of_maps(batch, size, device):
    """Make two batches of blurred, partly peaked maps with a mixing ratio of 0.35."""
    noise = gaussian_blur(torch.randn(2 * batch, 1, size, size).abs() ** 2, size / 32)
    own, other = unit_mass(noise.to(device)).chunk(2)
    return 0.35 * own, 0.65 * other


def search(device, repeats, tiny):
    """Time the search over all translations beside the authors' sample."""
    for size, loop in ((8, True), (12, False)) if tiny else ((24, True), (64, True), (224, False)):
        batch = 2 if tiny else 64
        own, other = pair_of_maps(batch, size, device)
        functions = {"all translations, FFT": lambda a=own, b=other: rearrange(a, b)}
        translation = rearrange(own, other)
        retained = retained_saliency(own, other, number_of(translation, own)[:, None])[:, 0]
        extra = {"certified_optimal": f"{int(certify(own, other, translation).sum())} of {batch}"}
        extra["retained"] = round(float(retained.mean()), 4)
        if loop:
            functions["1 % of them, loop over the images"] = lambda a=own, b=other: search_in_a_loop(a, b)
            sample = number_of(search_in_a_loop(own, other), own)
            sampled = retained_saliency(own, other, sample[:, None])[:, 0]
            if not (retained >= sampled - TIE).all():
                raise AssertionError("the search over all translations retains less than the sample")
            extra["retained_by_the_1_%"] = round(float(sampled.mean()), 4)
        title = f"search, {size} x {size} grid, batch {batch}, {(2 * size - 1) ** 2} translations"
        yield report(title, functions, device, repeats, **extra)


def saliency(device, repeats, tiny):
    """Time the sources."""
    size, batch = 32 if tiny else 224, batch_size(device, tiny)
    images = torch.rand(batch, 3, size, size, device=device)
    functions = {name: lambda source=source: source(images) for name, source in create_sources().items()}
    yield report(f"saliency, {batch} images of {size} x {size}", functions, device, repeats)


def call(device, repeats, tiny):
    """Time a call of the methods by the package's network, beside timm's Mixup."""
    batch = batch_size(device, tiny)
    for size in (32,) if tiny else (32, 224):
        images, target = torch.randn(batch, 3, size, size, device=device), torch.arange(batch, device=device) % 1000
        theirs = Mixup(mode="elem", mixup_alpha=0.8)
        functions = {"timm Mixup": lambda x=images, y=target, theirs=theirs: theirs(x.clone(), y)}
        for title, method in CALLS.items():
            mixup = create_mixup(method, mode="elem")
            mixed, weights = mixup(images, target)
            if not (mixed.isfinite().all() and torch.allclose(weights.sum(1), torch.ones_like(weights[:, 0]))):
                raise AssertionError("a mixed batch must be finite and its target rows sum to 1")
            functions[title] = lambda x=images, y=target, mixup=mixup: mixup(x, y)
        yield report(f"a call, mode elem, {batch} images of {size} x {size}", functions, device, repeats)


def step(device, repeats, tiny):
    """Time training steps with timm's Mixup and with SAGE by each source."""
    batch, size, cuda = batch_size(device, tiny), 32 if tiny else 224, device.type == "cuda"
    for name in ("test_resnet",) if tiny else ("resnet18", "resnet50"):
        model = timm.create_model(name).to(device, memory_format=torch.channels_last).train()
        optimizer, loss_fn = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9), SoftTargetCrossEntropy()
        images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
        target = torch.arange(batch, device=device) % 1000

        def training_step(mixup, model=model, optimizer=optimizer, loss_fn=loss_fn, images=images, target=target):
            x, weights = mixup(images.clone(), target)
            with torch.autocast("cuda", torch.bfloat16) if cuda else nullcontext():
                loss = loss_fn(model(x), weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        mixups = {"timm Mixup": Mixup(mixup_alpha=0.8)}
        mixups |= {f"SAGE, {kind}": SageMixup(0.8, saliency=source) for kind, source in create_sources().items()}
        functions = {title: lambda step=training_step, mixup=mixup: step(mixup) for title, mixup in mixups.items()}
        how = "bf16 autocast" if cuda else "float32"
        title = f"a step of {name}, {batch} images of {size} x {size}, channels_last, {how}"
        yield report(title, functions, device, repeats, calls=10 if cuda else 1)


def batch_size(device, tiny):
    """Return the number of images in a batch."""
    return 4 if tiny else 128 if device.type == "cuda" else 32


PARTS = {part.__name__: part for part in (step, saliency, call, search)}


def main(argv: Sequence[str] | None = None):
    """Time the parts that are asked for; return their figures."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.speed", description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to see that everything runs")
    args = parser.parse_args(argv)
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"PART must be one of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    device = torch.device(args.device)
    print(f"{machine(device)}, {date.today()}")
    return [row for name in args.parts or PARTS for row in PARTS[name](device, args.repeats, args.tiny)]


if __name__ == "__main__":
    main()
