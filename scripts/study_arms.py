"""The arms of study.py: a mixing function by name and settings, the controls, and two variations of SAGE.

An arm is written NAME[,SETTING=VALUE...], for example `gradient,lam_max=1,power=2`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from sage_timm.rearrange import RATES, WEIGHTS, unit_mass
from timm.data import Mixup

from sage_timm import MethodMixup, create_mixup, create_saliency
from sage_timm.checks import check_count, check_number
from sage_timm.methods.sage import SAGE
from sage_timm.plan import Batch, MixPlan
from sage_timm.saliency import Saliency, gaussian_blur

TIMM = {"mixup": (1, 0), "cutmix": (0, 1), "mixup+cutmix": (1, 1)}
MAPS = ("random", "centred", "flat")
SOURCES = ("gradient", "activation", "self", "spectral", *MAPS)
CONTROLS = {"still": 1e-9, "one-percent": 0.01}  # the gradient's arm with this search_fraction
OTHERS = ("saliencymix", "puzzlemix", "comixup")
NAMES = ("none", *TIMM, *SOURCES, *(f"{source}+cutmix" for source in SOURCES), *CONTROLS, *OTHERS)

OF_SALIENCY = {"blur": float, "power": float, "grid": int}
OF_SAGE = {"lam_max": float, "search_fraction": float, "weight": str, "pairing": str}
OF_ANY = {"prob": float, "alpha": float, "epochs": int}


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
            raise ValueError(f"an arm must be one of {', '.join(NAMES)}, got {name!r}")
        fixed = {}
        if name in CONTROLS:
            name, fixed = "gradient", {"search_fraction": CONTROLS[name]}
        known = {"epochs": int} if name == "none" else dict(OF_ANY)
        known |= OF_SALIENCY if name in OTHERS else {}
        known |= OF_SALIENCY | OF_SAGE if name.split("+")[0] in SOURCES else {}
        settings = dict(fixed)
        for key, _, value in (pair.partition("=") for pair in pairs):
            if key not in known or key in settings:
                raise ValueError(f"{name} must have settings out of {', '.join(known)}, each once, got {key!r}")
            try:
                settings[key] = known[key](value)
            except ValueError:
                raise ValueError(f"{key} must be a number ({known[key].__name__}), got {value!r}") from None
        check_count("epochs", settings.get("epochs", 1), 1)
        check_number("prob", settings.get("prob", 1), 0, 1)
        check_number("alpha", settings.get("alpha", 1), 0, 1e6, open_low=True)
        return cls(name, settings)

    @property
    def source(self) -> str | None:
        """The saliency source, None for arms that use none."""
        source = "gradient" if self.name in OTHERS else self.name.split("+")[0]
        return source if source in SOURCES else None

    def create(self, num_classes: int, prob: float, model: torch.nn.Module, auxiliary: Callable) -> Callable | None:
        """Create the mixing function (images, labels) -> (mixed images, soft targets); None for no mixing.

        Args:
            num_classes: number of classes.
            prob: share of mixed batches, where the arm does not set its own.
            model: the model in training, for 'self'.
            auxiliary: returns the frozen model, for 'gradient' and 'activation'.
        """
        if self.name == "none":
            return None
        common = {"prob": self.settings.get("prob", prob), "label_smoothing": 0.0, "num_classes": num_classes}
        alpha = self.settings.get("alpha", 1.0)
        if self.name in TIMM:
            return Mixup(*(alpha * share for share in TIMM[self.name]), **common)
        settings = {key: value for key, value in self.settings.items() if key in OF_SALIENCY}
        if self.source in MAPS:
            saliency = Control(self.source, **settings)
        elif self.source == "spectral":
            saliency = create_saliency("spectral", **settings)
        else:
            model = model if self.source == "self" else auxiliary()
            saliency = create_saliency(self.source, model=model, **settings)
        if self.name in OTHERS:
            common |= {"mixup_alpha": alpha} if "alpha" in self.settings else {}
            return create_mixup(self.name, saliency=saliency, **common)
        method = Varied(**{key: value for key, value in self.settings.items() if key in OF_SAGE})
        return MethodMixup(method, alpha, 1.0 if "+cutmix" in self.name else 0.0, saliency=saliency, **common)


class Control(Saliency):
    """Maps that know nothing of the image: 'random' blurred noise, another for each, 'centred' Gaussians, or 'flat'."""

    def __init__(self, kind: str, blur: float = 0.0, **settings) -> None:
        super().__init__(blur, **settings)
        self.kind = kind

    def raw(self, images: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        if self.kind == "random":
            noise = gaussian_blur(torch.rand_like(images[:, :1]), min(images.shape[-2:]) / 8)
            noise = noise - noise.amin((-2, -1), keepdim=True)
            return noise / noise.amax((-2, -1), keepdim=True)
        y, x = (torch.linspace(-1, 1, side, device=images.device) for side in images.shape[-2:])
        sharpness = 2 if self.kind == "centred" else 0
        return torch.exp(-sharpness * (y[:, None] ** 2 + x**2)).expand(len(images), 1, -1, -1)


@dataclass(frozen=True)
class Varied(SAGE):
    """SAGE with two variations that the package does not offer.

    Args:
        weight: label weight: 'mask', its mean, or 'retained', the own image's share of what is retained of both
            objects, each as a share of its own map.
        pairing: partners: 'flip', as in timm, or 'best', those with which most saliency is retained.
    """

    weight: str = "mask"
    pairing: str = "flip"

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, choices in (("weight", ("mask", "retained")), ("pairing", ("flip", "best"))):
            if getattr(self, key) not in choices:
                raise ValueError(f"{key} must be one of {', '.join(choices)}, got {getattr(self, key)!r}")

    def __call__(self, batch: Batch) -> MixPlan:
        if self.pairing == "best":
            maps, share = unit_mass(F.adaptive_avg_pool2d(batch.saliency, 8)), self.lam_max * batch.lam[0]
            batch = replace(batch, partner=best_partners(share * maps, (1 - share) * maps))
        plan = super().__call__(batch)
        if self.weight == "retained":
            kept = plan.retained(batch.saliency)
            plan = replace(plan, lam=kept / kept.sum(1, keepdim=True))
        return plan


@torch.no_grad()
def look(mix, images: torch.Tensor, target: torch.Tensor) -> dict:
    """Measure SAGE's plans at a Beta draw of 0.5: how uneven the mask is, what share moves, and how far on average.

    Args:
        mix: an arm's mixing function; one that is not SAGE gives {}.
        images, target: [B, C, H, W] normalised, [B, N] class weights.
    """
    if not isinstance(getattr(mix, "method", None), SAGE):
        return {}
    lam, partner = torch.full((len(images),), 0.5, device=images.device), torch.arange(len(images)).flip(0)
    saliency = mix.saliency(images, target)
    plan = mix.method(Batch(images, saliency, partner.to(images.device), lam, mix.mixup_alpha))
    distance = plan.translation[:, 1, :, 0, 0].float().norm(dim=1)
    return {
        "mask_sd": round(plan.mask[:, 0].std((1, 2)).mean().item(), 3),
        "moved": round(100 * (distance > 0).float().mean().item(), 1),
        "distance": round(distance.sum().item() / max(1, distance.count_nonzero().item()), 1),
    }


def pair_values(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Approximate the largest retained saliency over all translations for all pairs of maps, but for own's mass.

    Args:
        own, other: [B, 1, h, w] float32, non-negative, with the mixing ratio in their mass.

    Returns:
        [B, B] float32; entry (i, j) is of own map i with other map j.
    """
    size = (2 * own.shape[-2], 2 * own.shape[-1])
    peak = own.amax() + other.amax()
    own, other = own[:, 0] / peak, other[:, 0].flip(-2, -1) / peak
    rates, weights = (torch.tensor(values, device=own.device).view(-1, 1, 1, 1) for values in (RATES, WEIGHTS))
    left = torch.cat([-2 * weights * own * torch.exp(-rates * own), torch.ones_like(own)[None]])
    right = torch.cat([other * torch.exp(-rates * other), other[None]])
    left, right = (torch.fft.rfft2(terms, s=size).permute(2, 3, 1, 0) for terms in (left, right))
    return peak * torch.fft.irfft2((left @ right.mT).permute(2, 3, 0, 1), s=size).amax((-2, -1))


def best_partners(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Give each image another one as its partner, so that the sum of the retained saliency is largest: [B] int64."""
    from scipy.optimize import linear_sum_assignment

    value = pair_values(own, other).fill_diagonal_(-1e3)
    return torch.as_tensor(linear_sum_assignment(value.cpu().numpy(), maximize=True)[1], device=own.device)
