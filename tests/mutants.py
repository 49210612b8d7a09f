"""Break the code on purpose and see a test fail: `python tests/mutants.py` rewrites the table in tests/README.md.

Each mutant replaces one piece of text in a copy of the repository; the named tests must then fail (pytest's exit code
1, not an error of collection). The unchanged copy must pass them.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
SEARCH, SAGE, MIXUP, SALIENCY, AUXILIARY, LAUNCH = (
    f"tests/test_{name}.py" for name in ("rearrange", "sage", "mixup", "saliency", "auxiliary", "launch")
)

MUTANTS = [
    # what is broken, file, text, replacement, tests
    ("dy and dx swapped in translate", "rearrange.py", "- translation[..., 0, None]", "- translation[..., 1, None]", SEARCH),
    ("partner moves the other way", "rearrange.py", "device=translation.device) - translation[..., 1", "device=translation.device) + translation[..., 1", SEARCH),
    ("outside the frame not 0", "rearrange.py", "torch.where(inside[:, None], pixels, 0)", "pixels", SEARCH),
    ("correlation instead turned round", "rearrange.py", "other.flip(-2, -1)", "other", SEARCH),
    ("one exponential dropped", "rearrange.py", "zip(RATES, WEIGHTS, strict=True)", "zip(RATES[:-3], WEIGHTS[:-3], strict=True)", SEARCH),
    ("no zero padding: circular overlap", "rearrange.py", "size = (_fast_length(2 * height - 1), _fast_length(2 * width - 1))", "size = (_fast_length(height + 1), _fast_length(width + 1))", SEARCH),
    ("visible mass ignored", "rearrange.py", "spectrum = torch.fft.rfft2(maps[:, 1], s=size) *", "spectrum = 0 *", SEARCH),
    ("maps not scaled to a peak of 1", "rearrange.py", "peak[:, 0] * gained", "gained", SEARCH),
    ("no exact re-evaluation", "rearrange.py", "TOP = 8 ", "TOP = 1 ", SEARCH),
    ("candidates ignored", "rearrange.py", "if candidates is not None:\n", "if False:\n", SEARCH),
    ("ties go to the longest", "rearrange.py", "length = translation.square().sum(2)", "length = -translation.square().sum(2)", SEARCH),
    ("every pick certified", "rearrange.py", "certified = (highest >= bound - TIE * total).all(1)", "certified = (highest >= 0 * bound).all(1)", SEARCH),
    ("mask for 1 - mask", "methods/sage.py", "own / both.masked_fill(both == 0, 1)", "moved / both.masked_fill(both == 0, 1)", SAGE),
    ("both maps 0: always own image", "methods/sage.py", "torch.where(present > 0, ratio.view(-1, 1, 1, 1), 1)", "torch.ones_like(own)", SAGE),
    ("zero map is not uniform", "methods/sage.py", "torch.where(peak > 0, saliency / peak, 1)", "saliency / peak", SAGE),
    ("ratio and 1 - ratio swapped", "methods/sage.py", "share * maps, (1 - share) * maps[partner], candidates", "(1 - share) * maps, share * maps[partner], candidates", SAGE),
    ("cells not scaled to pixels", "methods/sage.py", "[dy * (height / rows), dx * (width / columns)]", "[dy * 1.0, dx * 1.0]", SAGE),
    ("zero translation not always tried", "methods/sage.py", "candidates[:, rows - 1, columns - 1] = True", "candidates[:, 0, 0] = True", SAGE),
    ("one draw of candidates for the batch", "methods/sage.py", "shape = (len(saliency), 2", "shape = (1, 2", SAGE),
    ("lam is the mean of 1 - mask", "methods/sage.py", "mask.mean((1, 2, 3)))", "1 - mask.mean((1, 2, 3)))", SAGE),
    ("wrong partner for the target", "plan.py", "target[self.partner] * (1 - lam)", "target.roll(1, 0) * (1 - lam)", SAGE),
    ("lam weighs the partner's label", "plan.py", "target * lam + target[self.partner] * (1 - lam)", "target * (1 - lam) + target[self.partner] * lam", SAGE),
    ("image of the wrong partner", "plan.py", "translate(images[self.partner]", "translate(images.roll(1, 0)", SAGE),
    ("layout lost", "plan.py", "torch.channels_last if channels_last else torch.contiguous_format", "torch.contiguous_format", SAGE),
    ("CutMix box one pixel off", "methods/cutmix.py", "(y < bottom)", "(y <= bottom)", MIXUP),
    ("lam_max does nothing", "mixup.py", "lam * np.float32(self.lam_max)", "lam", MIXUP),
    ("search_fraction does nothing", "mixup.py", "search_fraction=self.search_fraction)", "search_fraction=1.0)", MIXUP),
    ("smoothing as for multi-label", "mixup.py", "self.label_smoothing * 0.5 if self.multi_label else", "self.label_smoothing * 0.5 if True else", MIXUP),
    ("middle image of odd batches mixed with itself", "mixup.py", "if batch % 2:", "if False:", MIXUP),
    ("pair mode draws per element", "mixup.py", 'batch // 2, "elem": batch}', 'batch, "elem": batch}', MIXUP),
    ("multi_label does nothing", "mixup.py", "self.multi_label = multi_label", "self.multi_label = False", MIXUP),
    ("labels not checked", "checks.py", "if low < 0 or high >= num_classes:", "if low < 0:", MIXUP),
    ("non-finite saliency kept", "mixup.py", ".nan_to_num(0, 0, 0)", "", MIXUP),
    ("non-finite saliency not reported", "checks.py", "if (unfit or empty) and not self._warned:", "if False:", MIXUP),
    ("device checks never act", "checks.py", "act(host)", "pass", MIXUP),
    ("saliency of the mixed-up sign", "saliency.py", "gradient.abs().mean(1, keepdim=True)", "gradient.mean(1, keepdim=True)", SALIENCY),
    ("true label ignored", "saliency.py", "if target is None or (target.ndim == 2 and target.shape[1] != logits.shape[1]):", "if True:", SALIENCY),
    ("power does nothing", "saliency.py", "if self.power != 1:", "if False:", SALIENCY),
    ("blur does nothing", "saliency.py", "if self.blur:", "if False:", SALIENCY),
    ("grid does nothing", "saliency.py", "(self.grid or side)", "side", SALIENCY),
    ("size does nothing", "saliency.py", "images = resize(images, self.size or tuple(images.shape[-2:]))", "images = resize(images, tuple(images.shape[-2:]))", SALIENCY),
    ("statistics not converted", "saliency.py", "return (images * std + (mean - own_mean)) / own_std", "return images", SALIENCY),
    ("self saliency leaves the model in eval mode", "saliency.py", "module.training = training", "pass", SALIENCY),
    ("auxiliary model is the user's own object", "auxiliary.py", "copy.deepcopy(unwrap(model))", "unwrap(model)", SALIENCY),
    ("parameters not frozen", "auxiliary.py", ".eval().requires_grad_(False)", ".eval()", SALIENCY),
    ("averaged weights ignored", "auxiliary.py", '("state_dict_ema", "model_ema", "state_dict", "model")', '("state_dict", "model")', AUXILIARY),
    ("pickled code is run", "auxiliary.py", "weights_only=True", "weights_only=False", AUXILIARY),
    ("hub asked without a probe", "auxiliary.py", "get_session().head(constants.ENDPOINT, timeout=5)", "pass", AUXILIARY),
    ("a Beta draw of 1 counts as unmixed", "mixup.py", "use_sage = mixed & ~use_cutmix", "use_sage = mixed & ~use_cutmix & (lam < 1)", MIXUP),
    ("sys.exit() escapes the check at the end", "launch.py", "if end.code in (None, 0) and", "if False and", LAUNCH),
    ("spawned processes not refused", "takeover.py", "self._replace((torch.multiprocessing.start_processes, _refuse_to_spawn))", "pass", LAUNCH),
    ("mistyped YAML keys ignored", "launch.py", 'if name.startswith(("sage", "salien")):', "if False:", LAUNCH),
    ("size of fixed-size models ignored", "auxiliary.py", "size = built_for or config", "size = config", SALIENCY),
    ("random state consumed", "auxiliary.py", "with torch.random.fork_rng(devices=[]):", "if True:", AUXILIARY),
    ("prefetcher path not mixed", "takeover.py", "return MixLoader(original(*call.args, **call.kwargs), mixing.mixup)", "return original(*call.args, **call.kwargs)", LAUNCH),
    ("off-epoch switch lost", "loader.py", "self.mixup.mixup_enabled = enabled", "pass", LAUNCH),
    ("gate left closed", "takeover.py", 'args["mixup"] = 1.0', "pass", LAUNCH),
    ("command line loses to YAML", "launch.py", "vars(parsed).update(given)", "pass", LAUNCH),
    ("names patched in timm.data only", "takeover.py", '_PUBLIC = ("timm", "timm.data", "timm.data.mixup",', '_PUBLIC = ("timm", "timm.data",', LAUNCH),
    ("statistics of the run not passed on", "takeover.py", "self.source.normalized_with(self.mean, self.std)", "pass", LAUNCH),
    ("unmixed training not noticed", "takeover.py", "hook = register_optimizer_step_post_hook(lambda *_: self._stepped())", "hook = register_optimizer_step_post_hook(lambda *_: None)", LAUNCH),
    ("script's exit not checked", "takeover.py", "if self.settings is not None and not self.built:", "if False:", LAUNCH),
    ("every rank speaks", "flags.py", 'if os.environ.get("RANK", "0") == "0":', "if True:", LAUNCH),
    ("script is no real __main__", "launch.py", 'sys.modules["__main__"] = module', "pass", LAUNCH),
    ("own frames in tracebacks", "launch.py", "sys.excepthook = from_script", "pass", LAUNCH),
]  # fmt: skip


def outcome(mutant):
    """Return pytest's exit code and last line for a mutant, or for the unchanged code (None, with all tests)."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("sage_timm", "tests", "scripts", "pyproject.toml", "README.md"):
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, Path(folder, name))
        tests = [SEARCH, SAGE, MIXUP, SALIENCY, AUXILIARY, LAUNCH]
        if mutant is not None:
            _, name, text, replacement, tests = mutant
            path, tests = Path(folder, "sage_timm", name), [tests]
            content = path.read_text()
            if content.count(text) != 1:
                return None, f"the text stands {content.count(text)} times in {name}"
            path.write_text(content.replace(text, replacement))
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": folder},
            capture_output=True,
            text=True,
        )
        failed = [line.split(" - ")[0].removeprefix("FAILED ") for line in run.stdout.splitlines() if "FAILED" in line]
        return run.returncode, failed[-1].split("::")[-1] if failed else run.stdout.strip().splitlines()[-1]


def main():
    with ThreadPoolExecutor(2) as pool:
        (code, line), *results = pool.map(outcome, [None, *MUTANTS])
    if code != 0:
        sys.exit(f"the unchanged code fails: {line}")
    rows = []
    for (what, name, *_), (code, line) in zip(MUTANTS, results, strict=True):
        rows.append(f"| {what} | `{name}` | {f'`{line}`' if code == 1 else f'**not seen** ({line})'} |")
        print(rows[-1])
    readme = ROOT / "tests" / "README.md"
    head = readme.read_text().split("| broken |")[0]
    readme.write_text(head + "| broken | in | seen by |\n|---|---|---|\n" + "\n".join(rows) + "\n")
    missed = sum(code != 1 for code, _ in results)
    print(f"{len(rows) - missed} of {len(rows)} mutants seen")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
