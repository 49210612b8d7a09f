"""What a run is to do: the flags and the script's arguments as one checked, frozen `Settings`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checks import check_count, check_library
from ..methods import Method, create_method
from ..options import SALIENCY_FLAGS, saliency_settings
from ..saliency import Saliency, create_saliency
from .flags import NAMES, flag


@dataclass(frozen=True)
class Settings:
    """The settings of a run with a mixer.

    Attributes:
        method, mixer, kwargs: what mixes, its name and its settings.
        asked: the flag that asked for it, for messages.
        opened: alpha to set in place of 0 for the script's --mixup or --mixup-alpha, so that the method mixes.
        label_weight: what the labels are weighted by, 'mask' or 'saliency'.
        source: arguments of `create_saliency`; None where neither the method nor the label weights use saliency.
        statistics: mean and std of the images, where flags say them.
        save_mixed, folder: number of mixed batches to write as pictures, and where to.
        notes: what the user should know about these settings, a line each.
    """

    method: Method
    mixer: str = "sage"
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    asked: str = "--sage"
    opened: Mapping[str, float] = field(default_factory=dict)
    label_weight: str = "mask"
    source: Mapping[str, Any] | None = field(default_factory=dict)
    statistics: tuple[Sequence[float], Sequence[float]] | None = None
    save_mixed: int = 0
    folder: Path = Path("mixed")
    notes: tuple[str, ...] = ()


def read_settings(given: Mapping[str, Any], args: Mapping[str, Any]) -> Settings | None:
    """Check and merge what was asked for; None where no mixer was.

    Args:
        given: flags of the launcher on the command line, those alone that were given.
        args: arguments that the script parsed, its config file included; empty where it has not parsed any.

    Raises:
        TypeError, ValueError: settings that are out of range or cannot be combined, in terms of flags or arguments.
        ImportError: a library that they need is missing.
    """
    merged = {**{name: value for name, value in args.items() if value is not None}, **given}
    if not merged.get("sage") and not merged.get("mixer"):
        return None
    mixer = merged.get("mixer") or "sage"
    asked = f"--mixer {mixer}" if merged.get("mixer") else "--sage"
    if merged.get("sage") and mixer != "sage":
        raise ValueError(f"--sage and {asked} can't be combined; drop one of the two")
    for name in ("naflex_loader", "aug_splits", "jsd_loss"):
        if args.get(name):
            raise ValueError(f"{flag(name)} can't be combined with {asked}; drop one of the two")
    if args.get("use_v2") is False:
        raise ValueError(f"{asked} mixes in v2.MixUp's place: give --use-v2, or use SageMix as in docs/training.md")
    save_mixed = check_count("save_mixed", merged.get("save_mixed") or 0, 0)
    if save_mixed:
        check_library("matplotlib", "--save-mixed", "Matplotlib", "viz")
    kwargs = merged.get("mixer_kwargs") or {}
    if not isinstance(kwargs, dict) or not all(isinstance(name, str) for name in kwargs):
        raise TypeError(f"--mixer-kwargs must map names to values, got {kwargs!r}")
    method = create_method(mixer, **kwargs)

    source, sources = saliency_settings(merged), SALIENCY_FLAGS["--saliency"]["choices"]
    if (labels := merged.get("saliency_use_labels")) not in (None, "yes", "no", True, False):
        raise ValueError(f"--saliency-use-labels must be yes or no, got {labels!r}")
    if labels is not None:
        source["use_labels"] = labels in ("yes", True)
    if source.get("name", sources[0]) not in sources:
        raise ValueError(f"--saliency must be one of {', '.join(sources)} in the launcher, got {source['name']!r}")
    mean, std = merged.get("saliency_mean"), merged.get("saliency_std")
    label_weight = merged.get("mixer_label_weight") or "mask"
    opened = _opened(args, mixer, method)
    notes = [
        f"{flag(name)} was 0, so {mixer} would never mix; using {flag(name)} {alpha}, the value of its authors"
        for name, alpha in opened.items()
    ]
    uses_saliency = method.uses_saliency or label_weight == "saliency"
    idle = [flag(name) for name in NAMES if name.startswith("saliency") and name in merged]
    if uses_saliency:
        _check_source(**source, mean=mean, std=std)
    elif idle:
        notes.append(f"{', '.join(idle)} has no effect: {asked} uses no saliency")
    output = args.get("output") or args.get("output_dir") or ""
    return Settings(
        method=method,
        mixer=mixer,
        kwargs=kwargs,
        asked=asked,
        opened=opened,
        label_weight=label_weight,
        source=source if uses_saliency else None,
        statistics=None if mean is None or std is None else (tuple(mean), tuple(std)),
        save_mixed=save_mixed,
        folder=Path(str(output), str(args.get("experiment") or ""), "mixed"),
        notes=tuple(notes),
    )


def _check_source(model: Any = None, checkpoint: Any = None, size: int | None = None, **others) -> None:
    """Check a source's arguments as far as it can be done without loading a classifier; see `create_saliency`."""
    if model is None and checkpoint is None:
        create_saliency(size=size, **others)
        return
    if checkpoint is not None and not os.path.isfile(checkpoint):
        raise ValueError(f"`checkpoint` must be an existing file, got {checkpoint!r}")
    check_count("size", 1 if size is None else size, 1)
    Saliency(**{key: value for key, value in others.items() if key not in ("name", "use_labels")})


def _opened(args: Mapping[str, Any], mixer: str, method: Method) -> dict[str, float]:
    """Return the authors' alpha where the script's own is 0, which would keep the method from mixing."""
    opened = {}
    for name, cutmix in (("mixup", "cutmix"), ("mixup_alpha", "cutmix_alpha")):
        alpha: Any = args.get(name)
        if type(alpha) not in (int, float):
            continue  # the script has no such flag, or reads it in a way of its own
        if alpha < 0:
            raise ValueError(f"{flag(name)} must be at least 0, got {alpha}")
        if alpha == 0 and not (mixer == "cutmix" and (args.get(cutmix) or args.get("cutmix_minmax"))):
            opened[name] = method.alpha
    return opened
