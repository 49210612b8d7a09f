"""The arms of the study: a mixing function by name and settings, with the controls that a claim about maps needs.

An arm is written NAME[,SETTING=VALUE...], for example `gradient+mixup,share=0.5,lam_max=1`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from timm.data import Mixup

from sage_timm import MethodMixup, create_mixup, create_saliency
from sage_timm.checks import check_count, check_number
from sage_timm.methods import METHODS, create_method
from sage_timm.methods.sage import SAGE
from sage_timm.plan import Batch
from sage_timm.saliency import Saliency
from sage_timm.tensors import unit_mass

TIMM = {"mixup": (1, 0), "cutmix": (0, 1), "mixup+cutmix": (1, 1)}
MODEL_SOURCES = ("feature", "gradient")
MAPS = ("oracle", "shuffled", "flat")
SOURCES = (*MODEL_SOURCES, "self", "spectral", *MAPS)
TURNS = ("", "+mixup", "+cutmix", "+mixup+cutmix")
OTHERS = tuple(name for name in METHODS if name not in ("sage", *TIMM))
NAMES = ("none", *TIMM, *(f"{source}{turn}" for source in SOURCES for turn in TURNS), *OTHERS)
LABELS = ("mask", "saliency", "halfway")

OF_ANY = {"prob": float, "alpha": float, "epochs": int}
OF_SALIENCY = {"blur": float, "grid": int, "floor": float}
OF_AUXILIARY = {"aux_epochs": int, "aux_mix": str, "aux": str}
OF_SAGE = {"lam_max": float, "search_fraction": float, "label": str, "share": float}
OF_LABELS = {"label": str, "map": str}


@dataclass(frozen=True)
class Arm:
    """One thing to compare: a name out of `NAMES` and settings that differ from the recipe's or the package's."""

    name: str
    settings: dict

    @classmethod
    def parse(cls, text: str) -> "Arm":
        """Read NAME[,SETTING=VALUE...].

        Raises:
            ValueError: an unknown name, setting or value.
        """
        name, *pairs = text.split(",")
        if name not in NAMES:
            hint = "; SAGE is named by its saliency, such as 'feature'" if name.startswith("sage") else ""
            raise ValueError(f"an arm must be one of {', '.join(NAMES)}, got {name!r}{hint}")
        settings, known = {}, {"epochs": int} if name == "none" else dict(OF_ANY)
        if name in TIMM:
            known |= OF_LABELS | OF_SALIENCY | OF_AUXILIARY
        elif name in OTHERS:
            known |= OF_SALIENCY | OF_AUXILIARY | {"map": str} if METHODS[name].uses_saliency else {}
        elif name != "none":
            known |= OF_SALIENCY | OF_SAGE | (OF_AUXILIARY if name.split("+")[0] in MODEL_SOURCES else {})
        for key, _, value in (pair.partition("=") for pair in pairs):
            if key not in known or key in settings:
                raise ValueError(f"{name} must have settings out of {', '.join(known)}, each once, got {key!r}")
            try:
                settings[key] = known[key](value)
            except ValueError:
                raise ValueError(f"{key} must be a number ({known[key].__name__}), got {value!r}") from None
        check_count("epochs", settings.get("epochs", 1), 1)
        check_count("aux_epochs", settings.get("aux_epochs", 1), 1)
        check_number("prob", settings.get("prob", 1), 0, 1)
        check_number("alpha", settings.get("alpha", 1), 0, 1e6, open_low=True)
        check_number("share", settings.get("share", 1), 0, 1, open_low=True)
        choices = {"label": LABELS, "map": SOURCES, "aux_mix": ("none", *TIMM)}
        for key in choices.keys() & settings.keys():
            if settings[key] not in choices[key]:
                raise ValueError(f"{key} must be one of {', '.join(choices[key])}, got {settings[key]!r}")
        if "aux" in settings and settings.keys() & {"aux_epochs", "aux_mix"}:
            raise ValueError(f"aux must stand without aux_epochs and aux_mix, since it is not trained, got {text!r}")
        if name in TIMM and settings.get("label") != "saliency" and settings.keys() - {*OF_ANY, "label"}:
            raise ValueError(f"{name} must have label=saliency to look at maps, got {text!r}; drop their settings")
        return cls(name, settings)

    @property
    def source(self) -> str | None:
        """The saliency source, None for arms that use none."""
        weighs = self.settings.get("label") == "saliency" and self.name in TIMM
        if weighs or (self.name in OTHERS and METHODS[self.name].uses_saliency):
            return self.settings.get("map", "feature")
        source = self.name.split("+")[0]
        return source if source in SOURCES else None

    @property
    def auxiliary(self) -> tuple[str, int | None] | None:
        """By what the auxiliary model is trained and for how many epochs (None: the recipe's); None where none is."""
        if self.source not in MODEL_SOURCES or "aux" in self.settings:
            return None
        return self.settings.get("aux_mix", "none"), self.settings.get("aux_epochs")

    def create(
        self,
        num_classes: int,
        prob: float,
        model: torch.nn.Module,
        auxiliary: Callable,
        truth: "Truth",
        statistics: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> Callable | None:
        """Create the mixing function (images, labels) -> (mixed images, soft targets); None for no mixing.

        Args:
            num_classes: number of classes.
            prob: share of mixed batches, where the arm does not set its own.
            model: the model in training, for 'self'.
            auxiliary: returns the frozen model, for sources that look through one.
            truth: holds the true masks of the batch, for 'oracle' and 'shuffled'.
            statistics: per-channel mean and std that the images are normalised with, for `aux`, a pretrained model.
        """
        if self.name == "none":
            return None
        common = {"prob": self.settings.get("prob", prob), "label_smoothing": 0.0, "num_classes": num_classes}
        alpha, label = self.settings.get("alpha", 1.0), self.settings.get("label", "mask")
        source = self.create_source(model, auxiliary, truth, statistics) if self.source else None
        if self.name in TIMM and label == "mask":
            return Mixup(*(alpha * share for share in TIMM[self.name]), **common)
        if self.name in OTHERS:
            common |= {"mixup_alpha": alpha} if "alpha" in self.settings else {}
            return create_mixup(self.name, saliency=source, **common)
        name, *turns = self.name.split("+")
        settings = {key: self.settings[key] for key in ("lam_max", "search_fraction") if key in self.settings}
        method = create_method(name if name in TIMM else "sage", **settings)
        share = self.settings.get("share", 1 / (1 + len(turns)))
        cutmix = (1 - share) / len(turns) if "cutmix" in turns else 0.0
        shares = {"switch_prob": cutmix, "method_share": share / (1 - cutmix) if "mixup" in turns else 1.0}
        common |= {"saliency": source, "label_weight": "saliency" if label == "saliency" else "mask"}
        mixer = MethodMixup(method, alpha, alpha if cutmix else 0.0, **shares, **common)
        return Halfway(mixer) if label == "halfway" else mixer

    def create_source(self, model, auxiliary, truth, statistics) -> Saliency:
        """Create the saliency source, with the arm's settings of it."""
        settings = {key: self.settings[key] for key in OF_SALIENCY if key in self.settings}
        if self.source in MAPS:
            return Control(self.source, truth, **settings)
        if self.source == "spectral":
            return create_saliency("spectral", **settings)
        if "aux" in self.settings:
            mean, std = statistics
            name = self.settings["aux"]
            return create_saliency(self.source, model=name, mean=mean, std=std, in_chans=len(mean), **settings)
        return create_saliency(self.source, model=model if self.source == "self" else auxiliary(), **settings)


class Truth:
    """Where the objects of the batch in work are; the study sets `mask` [B, 1, H, W] before it mixes."""

    mask: torch.Tensor | None = None


class Control(Saliency):
    """The true mask of the object ('oracle'), that of another image of the batch ('shuffled'), or a 'flat' map."""

    def __init__(self, kind: str, truth: Truth, blur: float = 0.0, **settings) -> None:
        super().__init__(blur, **settings)
        self.kind, self.truth = kind, truth

    def raw(self, images: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Return the map [B, 1, H, W]."""
        if self.kind == "flat":
            return torch.ones_like(images[:, :1])
        if self.truth.mask is None:
            way = "set --boxes or --object-share, without --randaugment"
            raise ValueError(f"{self.kind} must know where the objects are; {way}")
        mask = self.truth.mask.float()
        return mask if self.kind == "oracle" else mask.roll(1, 0)


class Halfway:
    """A mixer whose label weights are half-way between its own and equal ones."""

    def __init__(self, mixer: MethodMixup) -> None:
        self.mixer = mixer

    def __call__(self, images: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix a batch."""
        plan, weights = self.mixer.plan(images, target), F.one_hot(target, self.mixer.num_classes).float()
        if plan is None:
            return images, weights
        plan = replace(plan, lam=(plan.lam + 1 / plan.lam.shape[1]) / 2)
        return plan.mix_images(images), plan.mix_target(weights)


@torch.no_grad()
def map_quality(maps: torch.Tensor, mask: torch.Tensor) -> dict[str, float]:
    """Measure how well maps find objects.

    Args:
        maps: [B, 1, h, w], non-negative; constant within each cell.
        mask: [B, 1, H, W], 1 on the object.

    Returns:
        `on_object`: the share of the maps' mass on the object; `pointing`: the share of maps whose highest cell lies
        more on the object than off it; `half_mass`: the smallest share of the cells that holds half of the mass.
    """
    mask = F.adaptive_avg_pool2d(mask.float(), maps.shape[-2:]).flatten(1)
    maps = unit_mass(maps.float()).flatten(1)
    highest = mask.gather(1, maps.argmax(1, keepdim=True))
    needed = (maps.sort(1, descending=True).values.cumsum(1) < 0.5).sum(1) + 1
    return {
        "on_object": round((maps * mask).sum(1).mean().item(), 3),
        "pointing": round((highest > 0.5).float().mean().item(), 3),
        "half_mass": round((needed / maps.shape[1]).mean().item(), 3),
    }


@torch.no_grad()
def look(mix, images: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None) -> dict[str, float]:
    """Measure an arm's maps and, at a Beta draw of 0.5, SAGE's plans.

    Args:
        mix: an arm's mixing function; one that uses no maps gives {}.
        images, target: [B, C, H, W] normalised, [B, N] class weights.
        mask: the true masks [B, 1, H, W], None where unknown.

    Returns:
        What `map_quality` measures where the masks are known; and of SAGE `mask_sd`, how uneven its mask is;
        `moved`, the % of partners that move, and `distance`, how far those do on average, as % of the side; `retained`,
        how much of both objects' saliency is in the mixed image, 1 for Mixup; and `objects`, that of the true masks.
    """
    mix = mix.mixer if isinstance(mix, Halfway) else mix
    source = mix.saliency if isinstance(mix, MethodMixup) else None
    if source is None:
        return {}
    saliency = source(images, target)
    looks = {} if mask is None else map_quality(saliency, mask)
    if not isinstance(mix.method, SAGE):
        return looks
    lam, partner = torch.full((len(images),), 0.5, device=images.device), torch.arange(len(images)).flip(0)
    plan = mix.method(Batch(images, saliency, partner.to(images.device), lam, mix.mixup_alpha))
    distance = plan.translation[:, 1, :, 0, 0].float().norm(dim=1)
    looks |= {
        "mask_sd": round(plan.mask[:, 0].std((1, 2)).mean().item(), 3),
        "moved": round(100 * (distance > 0).float().mean().item(), 1),
        "distance": round(100 * distance.sum().item() / max(1, distance.count_nonzero().item()) / images.shape[-1], 1),
        "retained": round(plan.retained(saliency).sum(1).mean().item(), 3),
    }
    return looks if mask is None else looks | {"objects": round(plan.retained(mask.float()).sum(1).mean().item(), 3)}
