"""What a run is to do: the flags and the script's arguments as one checked, frozen `Settings`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checks import check_count, check_library
from ..methods import Method, create_method
from ..options import saliency_settings
from ..saliency import DEFAULT_SOURCE
from ..saliency.auxiliary import check_file
from .flags import ARGUMENTS, flag

# The settings of SAGE that have flags of their own, by the names under which argparse stores those.
_SAGE = {"lam_max": "sage_lam_max", "search_fraction": "sage_search_fraction"}
_WITHOUT_MODEL = ("spectral", "self")


@dataclass(frozen=True)
class Settings:
    """The settings of a run with a mixer.

    Attributes:
        method: what mixes.
        asked: the flag that asked for it, for messages.
        mixup: what the script's --mixup must become, where it is 0 and the method would never mix; else None.
        share: share of the mixes that the method makes where CutMix does not; plain Mixup makes the rest.
        label_weight: what the labels are weighted by, 'mask' or 'saliency'.
        saliency: name of the saliency source.
        source: its other arguments, as in `create_saliency`.
        save_mixed: number of mixed batches to write as pictures.
        folder: where to.
        notes: what the user should know about these settings, a line each.
    """

    method: Method
    asked: str = "--sage"
    mixup: float | None = None
    share: float = 1.0
    label_weight: str = "mask"
    saliency: str = DEFAULT_SOURCE
    source: Mapping[str, Any] = field(default_factory=dict)
    save_mixed: int = 0
    folder: Path = Path("mixed")
    notes: tuple[str, ...] = ()

    @property
    def uses_saliency(self) -> bool:
        """Whether the method or the label weights look at saliency."""
        return self.method.uses_saliency or self.label_weight == "saliency"

    @property
    def needs_model(self) -> bool:
        """Whether the saliency comes from an auxiliary model."""
        return self.uses_saliency and self.saliency not in _WITHOUT_MODEL


def read_settings(given: Mapping[str, Any], args: Mapping[str, Any]) -> Settings | None:
    """Check and merge what was asked for; None where no mixer was.

    Args:
        given: flags of the launcher on the command line, those alone that were given.
        args: arguments that the script parsed, its config file included; empty where it has not parsed any.

    Raises:
        TypeError, ValueError: settings that are out of range or cannot be combined, in terms of flags or arguments.
        ImportError: a library that they need is missing.
    """
    merged = {**given, **{name: value for name, value in args.items() if value is not None}}
    if not merged.get("sage") and not merged.get("mixer"):
        return None
    mixer = merged.get("mixer") or "sage"
    asked = f"--mixer {mixer}" if merged.get("mixer") else "--sage"
    if merged.get("sage") and mixer != "sage":
        raise ValueError(f"--sage and {asked} can't be combined; drop one of the two")
    for name in ("naflex_loader", "aug_splits", "jsd_loss"):
        if args.get(name):
            raise ValueError(f"{flag(name)} can't be combined with {asked}; drop one of the two")
    save_mixed = check_count("save_mixed", merged.get("save_mixed") or 0, 0)
    if save_mixed:
        check_library("matplotlib", "--save-mixed", "Matplotlib", "viz")
    method = create_method(mixer, **_method_settings(merged, mixer, asked))

    notes: list[str] = []
    mixup = _opened_mixup(args, mixer, method)
    if mixup is not None:
        notes.append(f"--mixup was 0, so {mixer} would never mix; using --mixup {mixup}, the value of its authors")
    of_saliency = {name: value for name, value in merged.items() if name.startswith("saliency")}
    source = saliency_settings(merged)
    name = source.pop("name", DEFAULT_SOURCE)
    label_weight = merged.get("mixer_label_weight") or "mask"
    uses_saliency = method.uses_saliency or label_weight == "saliency"
    if of_saliency and not uses_saliency:
        unused = ", ".join(map(flag, of_saliency))
        notes.append(f"{unused} has no effect: {asked} uses no saliency")
    elif name in _WITHOUT_MODEL and (idle := [source.pop(key) for key in ("model", "checkpoint") if key in source]):
        if given.keys() & {"saliency_model", "saliency_checkpoint"}:
            raise ValueError(f"--saliency {name} uses no --saliency-model and no --saliency-checkpoint; drop them")
        notes.append(f"--saliency {name} needs no model; the config file's {idle[0]} is not used")
    if uses_saliency and "checkpoint" in source:
        check_file(source["checkpoint"])

    return Settings(
        method=method,
        asked=asked,
        mixup=mixup,
        share=1.0 if merged.get("mixer_share") is None else merged["mixer_share"],
        label_weight=label_weight,
        saliency=name,
        source=source,
        save_mixed=save_mixed,
        folder=Path(
            str(args.get("output") or args.get("output_dir") or "."), str(args.get("experiment") or ""), "mixed"
        ),
        notes=tuple(notes),
    )


def _method_settings(merged: Mapping[str, Any], mixer: str, asked: str) -> dict[str, Any]:
    """Return the method's own settings, of --mixer-kwargs and of the flags for SAGE."""
    by_flag = {name: merged[stored] for name, stored in _SAGE.items() if merged.get(stored) is not None}
    kwargs = merged.get("mixer_kwargs") or {}
    if not isinstance(kwargs, dict) or not all(isinstance(name, str) for name in kwargs):
        raise TypeError(f"--mixer-kwargs must map names to values, got {kwargs!r}")
    for name in by_flag:
        if mixer != "sage":
            raise ValueError(f"{ARGUMENTS[name]} is SAGE's; drop it with {asked}")
        if name in kwargs:
            raise ValueError(f"{name} is given twice, by --mixer-kwargs and by {ARGUMENTS[name]}")
    return {**by_flag, **kwargs}


def _opened_mixup(args: Mapping[str, Any], mixer: str, method: Method) -> float | None:
    """Return the authors' alpha where the script's --mixup is 0, which would keep it from mixing; else None."""
    mixup = args.get("mixup")
    if isinstance(mixup, bool) or not isinstance(mixup, (int, float)):
        return None  # the script reads it in a way of its own
    if mixup < 0:
        raise ValueError(f"--mixup must be at least 0, got {mixup}")
    by_cutmix = mixer == "cutmix" and (args.get("cutmix") or args.get("cutmix_minmax"))
    return method.alpha if mixup == 0 and not by_cutmix else None
