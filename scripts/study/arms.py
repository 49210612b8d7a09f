"""The arms of the study: a mixing function by name and settings, with the controls that a claim about maps needs.

An arm is written NAME[,SETTING=VALUE...], for example `feature+cutmix,label=saliency`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.data import Mixup

from sage_timm import MethodMixup, create_mixup, create_saliency, saliency
from sage_timm.checks import check_count, check_number
from sage_timm.methods import METHODS
from sage_timm.methods.sage import LEAST, SAGE, sage, saliency_masks
from sage_timm.plan import Batch, MixPlan
from sage_timm.saliency import Saliency
from sage_timm.tensors import unit_mass
from scripts.saliency.teacher import PACKAGED_MODEL, packaged_model

TIMM = {"mixup": (1, 0), "cutmix": (0, 1), "mixup+cutmix": (1, 1)}
TRAINED = ("feature", "gradient")  # these look through a model that the study trains, unless `aux` names one
CONTROLS = ("oracle", "shuffled", "teacher", "flat")
SOURCES = (*(name for name in saliency.SOURCES if name != "self"), *CONTROLS)
OTHERS = tuple(name for name in METHODS if name not in ("sage", *TIMM))
NAMES = ("none", *TIMM, *(source + turns for source in SOURCES for turns in ("", "+cutmix")), *OTHERS)

OF_ANY = {"prob": float, "alpha": float, "epochs": int}
OF_SALIENCY = {"blur": float, "grid": int, "floor": float}
OF_SAGE = {"lam_max": float, "label": str, "move": str}
CHOICES = {"label": ("mask", "saliency"), "move": ("yes", "no", "only")}


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
        arm = cls(name, {})
        known = {"epochs": int} if name == "none" else dict(OF_ANY)
        known |= OF_SALIENCY if arm.source else {}
        known |= {"aux": str} if arm.source in TRAINED else {}
        known |= OF_SAGE if arm.is_sage else {}
        for key, _, value in (pair.partition("=") for pair in pairs):
            if key not in known or key in arm.settings:
                raise ValueError(f"{name} must have settings out of {', '.join(known)}, each once, got {key!r}")
            try:
                arm.settings[key] = known[key](value)
            except ValueError:
                raise ValueError(f"{key} must be a number ({known[key].__name__}), got {value!r}") from None
            if value not in CHOICES.get(key, (value,)):
                raise ValueError(f"{key} must be one of {', '.join(CHOICES[key])}, got {value!r}")
        check_count("epochs", arm.settings.get("epochs", 1), 1)
        check_number("prob", arm.settings.get("prob", 1), 0, 1)
        check_number("alpha", arm.settings.get("alpha", 1), 0, 1e6, open_low=True)
        return arm

    @property
    def is_sage(self) -> bool:
        """Whether SAGE mixes, alone or by turns with CutMix."""
        return self.name.split("+")[0] in SOURCES

    @property
    def source(self) -> str | None:
        """The saliency source, None for arms that use none."""
        if self.is_sage:
            return self.name.split("+")[0]
        return "feature" if self.name in OTHERS and METHODS[self.name].uses_saliency else None

    @property
    def trains_auxiliary(self) -> bool:
        """Whether the maps come from a model that the study has to train first."""
        return self.source in TRAINED and "aux" not in self.settings

    def create(
        self,
        num_classes: int,
        prob: float,
        auxiliary: Callable,
        truth: "Truth",
        statistics: tuple[Sequence[float], Sequence[float]],
    ) -> Callable | None:
        """Create the mixing function (images, labels) -> (mixed images, soft targets); None for no mixing.

        Args:
            num_classes: number of classes.
            prob: share of mixed batches, where the arm does not set its own.
            auxiliary: returns the frozen model, for arms that have one trained.
            truth: holds the maps of the batch that are known beforehand, for 'oracle', 'shuffled' and 'teacher'.
            statistics: per-channel mean and std that the images are normalised with.
        """
        if self.name == "none":
            return None
        common = {"prob": self.settings.get("prob", prob), "label_smoothing": 0.0, "num_classes": num_classes}
        alpha = self.settings.get("alpha", 1.0)
        if self.name in TIMM:
            return Mixup(*(alpha * share for share in TIMM[self.name]), **common)
        source = self.create_source(auxiliary, truth, statistics) if self.source else None
        if self.name in OTHERS:
            common |= {"mixup_alpha": alpha} if "alpha" in self.settings else {}
            return create_mixup(self.name, saliency=source, **common)
        method = PartOfSAGE(self.settings.get("lam_max", SAGE.lam_max), move=self.settings.get("move", "yes"))
        common |= {"saliency": source, "label_weight": self.settings.get("label", "mask")}
        return MethodMixup(method, alpha, alpha if self.name.endswith("+cutmix") else 0.0, **common)

    def create_source(self, auxiliary: Callable, truth: "Truth", statistics) -> Saliency:
        """Create the saliency source, with the arm's settings of it."""
        settings = {key: self.settings[key] for key in OF_SALIENCY if key in self.settings}
        if self.source in CONTROLS:
            return Control(self.source, truth, **settings)
        if self.trains_auxiliary:
            return create_saliency(self.source, model=auxiliary(), **settings)
        mean, std = statistics
        settings |= {"mean": mean, "std": std}
        if self.settings.get("aux") == PACKAGED_MODEL:
            return create_saliency(self.source, model=packaged_model(), size=112, **settings)
        return create_saliency(self.source, model=self.settings.get("aux"), **settings)


@dataclass(frozen=True)
class PartOfSAGE(SAGE):
    """SAGE, whole or one of its two parts alone.

    Args:
        move: 'yes' for SAGE; 'no' leaves every partner in its place and blends by the maps; 'only' moves partners as
            the maps say and blends all pixels evenly, by the ratio, where the partner has not left the frame.
    """

    move: str = "yes"

    def __call__(self, batch: Batch) -> MixPlan:
        """Make the plan of a batch."""
        if self.move == "yes":
            return super().__call__(batch)
        ratio = self.lam_max * batch.lam
        if self.move == "no":
            in_place = torch.zeros((len(ratio), 2), dtype=torch.int64, device=ratio.device)
            return sage(batch.saliency, batch.partner, ratio, batch.size, in_place)
        plan, flat = super().__call__(batch), torch.ones_like(batch.images[:, :1], dtype=torch.float32)
        share = ratio.clamp(min=LEAST).view(-1, 1, 1, 1)
        masks = saliency_masks(share * flat, (1 - share) * flat, plan.translation[:, 1, :, 0, 0])
        return MixPlan(plan.source, masks, masks.mean((2, 3)), plan.translation, own=True)


class Truth:
    """What is known of the batch in work: the study sets `mask` [B, 1, H, W], true or a teacher's, before it mixes."""

    mask: torch.Tensor | None = None


class Control(Saliency):
    """The true mask ('oracle'), that of another image ('shuffled'), a 'teacher' map made before, or a 'flat' map."""

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
        mask = torch.where(mask.amax((1, 2, 3), keepdim=True) > 0, mask, 1)  # a crop may have lost the object
        return mask.roll(1, 0) if self.kind == "shuffled" else mask


@torch.no_grad()
def map_quality(maps: torch.Tensor, mask: torch.Tensor) -> dict[str, float]:
    """Measure how well maps find objects.

    Args:
        maps: [B, 1, h, w], non-negative; constant within each cell.
        mask: [B, 1, H, W], 1 on the object.

    Returns:
        `on_object`: the share of the maps' mass on the object; `pointing`: the share of maps whose highest cell lies
        more on the object than off it.
    """
    mask = F.adaptive_avg_pool2d(mask.float(), maps.shape[-2:]).flatten(1)
    maps = unit_mass(maps.float()).flatten(1)
    highest = mask.gather(1, maps.argmax(1, keepdim=True))
    return {
        "on_object": round((maps * mask).sum(1).mean().item(), 3),
        "pointing": round((highest > 0.5).float().mean().item(), 3),
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
        `moved`, the % of partners that move, and `distance`, how far those do on average, as % of the side; and
        `objects`, how much of both objects' true masks is in the mixed image, 1 for Mixup.
    """
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
    }
    return looks if mask is None else looks | {"objects": round(plan.retained(mask.float()).sum(1).mean().item(), 3)}
