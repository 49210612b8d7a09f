"""Saliency sources: (images, target) -> maps [B, 1, h, w]."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

from .auxiliary import Auxiliary, load_auxiliary, unwrap
from .checks import check_count, check_number

Source = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


def gaussian_blur(maps: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur [B, 1, h, w] by a Gaussian of `sigma` cells, cut off after 2 sigma, reflected at the border."""
    for dim in (2, 3):
        radius = min(math.ceil(2 * sigma), maps.shape[dim] - 1)
        if radius > 0:
            offset = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
            kernel = torch.exp(-0.5 * (offset / sigma) ** 2)
            kernel = (kernel / kernel.sum()).view((1, 1, -1, 1) if dim == 2 else (1, 1, 1, -1))
            padding = (0, 0, radius, radius) if dim == 2 else (radius, radius, 0, 0)
            maps = F.conv2d(F.pad(maps, padding, mode="reflect"), kernel)
    return maps


def resize(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize [B, C, H, W] with antialiasing; returned as it is where it has `size`."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True)


class Saliency:
    """A saliency source: a raw map of the images, then blur, power and grid.

    Subclasses implement `raw`. Any other callable `(images, target) -> [B, 1, h, w]` serves as a source too.

    Args:
        blur: standard deviation of a Gaussian blur, as a share of the map's shorter side; 0 for none.
        power: the blurred map is raised to this power; over 1 concentrates it, under 1 flattens it.
        grid: cells per side that a map may have; larger ones are averaged over whole cells. None for no limit.
    """

    def __init__(self, blur: float, power: float = 1.0, grid: int | None = 64) -> None:
        self.blur = check_number("blur", blur, 0, 1)
        self.power = check_number("power", power, 0, math.inf, open_low=True)
        self.grid = None if grid is None else check_count("grid", grid, 1)

    def raw(self, images: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Compute a non-negative map [B, 1, h, w] of images [B, C, H, W] in float32 and class weights [B, N]."""
        raise NotImplementedError

    def __call__(self, images: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the saliency maps of a batch.

        Args:
            images: [B, C, H, W], floating point, normalised as in training. Not changed.
            target: [B, N] class weights (one-hot for plain labels), [B] labels of the model's own classes, or None.

        Returns:
            [B, 1, h, w] float32, non-negative, any scale; free of gradient history.
        """
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            target = None if target is None else target.detach().clone()
            maps = self.raw(images.detach().float().clone(), target)
            maps = maps.float().clamp_min(0)
            if self.blur:
                maps = gaussian_blur(maps, self.blur * min(maps.shape[-2:]))
            if self.power != 1:
                peak = maps.amax((-2, -1), keepdim=True)
                maps = (maps / peak.where(peak > 0, 1)) ** self.power
            cells = [math.ceil(side / math.ceil(side / (self.grid or side))) for side in maps.shape[-2:]]
            return F.adaptive_avg_pool2d(maps, cells)

    def _settings(self) -> str:
        return f"blur {self.blur:.3g}, power {self.power:g}, grid {self.grid}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._settings()})"


class Spectral(Saliency):
    """Spectral residual: what an image's log amplitude spectrum has over its local average. Needs no model.

    Reference: Hou & Zhang, "Saliency Detection: A Spectral Residual Approach", CVPR 2007; computed at 64 x 64 as there.
    """

    def __init__(self, size: int | None = None, blur: float = 1 / 16, **settings) -> None:
        super().__init__(blur, **settings)
        self.size = 64 if size is None else check_count("size", size, 4)

    def raw(self, images: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        size = [min(self.size, side) for side in images.shape[-2:]]
        spectrum = torch.fft.fft2(resize(images.mean(1, keepdim=True), size))
        amplitude = spectrum.abs().clamp_min(torch.finfo(torch.float32).eps)
        log = amplitude.log()
        residual = log - F.avg_pool2d(F.pad(log, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        return torch.fft.ifft2(spectrum / amplitude * residual.exp()).abs().square()

    def __repr__(self) -> str:
        return f"spectral residual at {self.size} px ({self._settings()})"


class _ModelSaliency(Saliency):
    """A source that looks through a model, at `size` pixels, re-normalised from the run's statistics to the model's."""

    def __init__(self, auxiliary: Auxiliary, size: int | None, mean, std, **settings) -> None:
        super().__init__(**settings)
        self.auxiliary = auxiliary
        self.size = auxiliary.size if size is None else (check_count("size", size, 1),) * 2
        self.normalized_with(mean, std)

    def normalized_with(self, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> None:
        """Set the per-channel mean and std of the images to come; None where they are the model's own."""
        if (mean is None) != (std is None):
            raise ValueError(f"`mean` and `std` must be given together, got mean={mean!r}, std={std!r}")
        if mean is not None:
            for value in (*mean, *std):
                check_number("mean and std", value, -math.inf, math.inf)
            if len(mean) != len(std) or not all(value > 0 for value in std):
                raise ValueError(
                    f"`std` must hold a positive number for each of `mean`, got mean={mean!r}, std={std!r}"
                )
        self.mean, self.std = mean, std

    def normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalise images [B, C, H, W] in [0, 1] as this source expects the images it gets."""
        mean, std = (self.mean, self.std) if self.mean is not None else (self.auxiliary.mean, self.auxiliary.std)
        return pixels if mean is None else (pixels - _per_channel(mean, pixels)) / _per_channel(std, pixels)

    def model_input(self, images: torch.Tensor) -> torch.Tensor:
        """Resize the images and normalise them as the model expects."""
        images = resize(images, self.size or tuple(images.shape[-2:]))
        if self.mean is None or self.auxiliary.mean is None:
            return images
        if len(self.mean) not in (1, images.shape[1]):
            raise ValueError(f"`mean` must hold one number for each of {images.shape[1]} channels, got {self.mean!r}")
        mean, std, own_mean, own_std = (
            _per_channel(s, images) for s in (self.mean, self.std, self.auxiliary.mean, self.auxiliary.std)
        )
        return (images * std + (mean - own_mean)) / own_std

    @contextlib.contextmanager
    def model_on(self, device: torch.device) -> Iterator[nn.Module]:
        """Yield the model on `device`, in eval mode."""
        model = self.auxiliary.model
        parameter = next(model.parameters(), None)
        if parameter is not None and parameter.device != device:
            model.to(device)
        yield model

    def __repr__(self) -> str:
        size = f"{self.size[0]} x {self.size[1]} px" if self.size else "the images' own size"
        classes = getattr(self.auxiliary.model, "num_classes", None)
        known = f" ({classes} classes)" if classes else ""
        return f"{self.name} of {self.auxiliary.origin}{known}, at {size} ({self._settings()})"


def _per_channel(values, images: torch.Tensor) -> torch.Tensor:
    values = torch.as_tensor(values, dtype=images.dtype)
    if values.numel() != images.shape[1]:
        values = values.mean().expand(images.shape[1])
    return values.view(1, -1, 1, 1).to(images.device, non_blocking=True)


class Gradient(_ModelSaliency):
    """Magnitude of the loss gradient at the pixels, averaged over channels (the paper's saliency, section 3.1).

    The loss is the cross-entropy against the true label where the model has as many classes as the target, else
    against the model's own top class.
    Differs: the paper takes the gradient of the model in training; this one is of a frozen model.
    """

    name = "gradient"

    def __init__(self, auxiliary: Auxiliary, size=None, mean=None, std=None, blur: float = 1 / 32, **settings) -> None:
        super().__init__(auxiliary, size, mean, std, blur=blur, **settings)

    def raw(self, images: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        pixels = self.model_input(images)
        with self.model_on(images.device) as model, torch.enable_grad():
            pixels.requires_grad_()
            logits = _run(model, pixels)
            if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or not logits.requires_grad:
                got = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
                raise ValueError(f"the saliency model must return logits [B, N] that depend on the pixels, got {got}")
            if target is None or (target.ndim == 2 and target.shape[1] != logits.shape[1]):
                target = logits.argmax(1)
            loss = F.cross_entropy(logits.float(), target, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, pixels)
        return gradient.abs().mean(1, keepdim=True)


class Self(Gradient):
    """The paper's own saliency: the gradient of the model in training, in eval mode and with its weights of the moment.

    Costs a second forward and backward pass. The model is no copy: it must live on the images' device; modes, buffers
    and gradients are left as found. Differs: the authors compute it in train mode.
    """

    name = "gradient of the model in training"

    def model_input(self, images: torch.Tensor) -> torch.Tensor:
        """Resize the images; they come as the model in training expects them."""
        return resize(images, self.size or tuple(images.shape[-2:])).to(next(self.auxiliary.model.parameters()).dtype)

    @contextlib.contextmanager
    def model_on(self, device: torch.device) -> Iterator[nn.Module]:
        """Yield the training model in eval mode; every module's own mode is put back, also after an error."""
        model = unwrap(self.auxiliary.model)
        modes = [(module, module.training) for module in model.modules()]
        try:
            yield model.eval()
        finally:
            for module, training in modes:
                module.training = training


class Activation(_ModelSaliency):
    """Norm over channels of a feature map of the model: its last one of at least 7 x 7 cells (else its largest)."""

    name = "activation"

    def __init__(self, auxiliary: Auxiliary, size=None, mean=None, std=None, blur: float = 0.0, **settings) -> None:
        super().__init__(auxiliary, size, mean, std, blur=blur, **settings)
        if not hasattr(auxiliary.model, "forward_intermediates"):
            raise TypeError(
                f"`model` must be a timm model with forward_intermediates for activation saliency, got "
                f"{auxiliary.origin}; take saliency='gradient' for any other module"
            )

    def raw(self, images: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        with self.model_on(images.device) as model:
            features = _run(lambda x: model.forward_intermediates(x, intermediates_only=True), self.model_input(images))
        fine = [feature for feature in features if min(feature.shape[-2:]) >= 7]
        feature = fine[-1] if fine else max(features, key=lambda f: f.shape[-1] * f.shape[-2])
        return feature.float().norm(dim=1, keepdim=True)


def _run(model: Callable, pixels: torch.Tensor):
    try:
        return model(pixels)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RuntimeError(
            f"the saliency model can't take images {tuple(pixels.shape[1:])} ({reason}); check size= (--saliency-size) "
            f"and in_chans= of create_saliency"
        ) from error


_SOURCES = {"gradient": Gradient, "activation": Activation, "spectral": Spectral, "self": Self}


def create_saliency(
    name: str = "gradient",
    *,
    model: str | nn.Module | None = None,
    checkpoint: str | os.PathLike | None = None,
    size: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    in_chans: int = 3,
    **settings,
) -> Saliency:
    """Create a saliency source.

    Args:
        name: 'gradient' or 'activation' of a frozen auxiliary model, 'spectral' (needs no model), or 'self', the
            gradient of `model` itself, not frozen: the model in training.
        model: a timm model name with pretrained weights, `local-dir:PATH`, `hf-hub:ID`, or a module (copied and
            frozen, but for 'self'). Default: the architecture the checkpoint names, else mobilenetv3_small_100.
        checkpoint: a local file with the weights of `model`: .safetensors, .pth, or a .pth.tar of timm's train.py.
        size: side in pixels that images are resized to for the model. Default: half the input size of pretrained
            weights (112 for 224), the images' own size for a checkpoint or a module, 64 for 'spectral'.
        mean, std: per-channel statistics the training images are normalised with, for images in [0, 1]. Default: taken
            to be those of the model.
        in_chans: channels of the images.
        **settings: `blur`, `power` and `grid`, see `Saliency`. Default blur: 1/32 of the side for gradients (the
            authors' 1 px at 32 px), 0 for 'activation', 1/16 for 'spectral'.

    Raises:
        ValueError: unknown name, or a model or checkpoint that does not fit.
        RuntimeError: the pretrained weights can't be had.
    """
    if name not in _SOURCES:
        raise ValueError(f"`saliency` must be one of {', '.join(_SOURCES)} or a callable, got {name!r}")
    if unknown := set(settings) - {"blur", "power", "grid"}:
        raise TypeError(f"saliency settings are blur, power and grid, got {', '.join(sorted(unknown))}")
    if name == "spectral":
        if model is not None or checkpoint is not None:
            raise ValueError("'spectral' saliency takes no model and no checkpoint; drop them or take 'gradient'")
        return Spectral(size, **settings)
    if name == "self":
        if not isinstance(model, nn.Module):
            raise ValueError(f"'self' saliency needs `model`, the module in training, got {model!r}")
        if checkpoint is not None:
            raise ValueError("'self' saliency takes no checkpoint; it follows the model in training")
        return Self(Auxiliary(model, None, None, None, type(unwrap(model)).__name__), size, mean, std, **settings)
    auxiliary = load_auxiliary(model, checkpoint, in_chans)
    return _SOURCES[name](auxiliary, size, mean, std, **settings)
