"""A mix plan: what is mixed with what, where, and how much each label weighs."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from .checks import check_images, check_target
from .tensors import numbers, shrink, translate, unit_mass


@dataclass(frozen=True)
class Batch:
    """What a method makes a plan for.

    Attributes:
        images: [B, C, H, W], floating point, normalised.
        saliency: [B, 1, h, w] float32, non-negative, any scale up to 1e30; None for methods that use none.
        partner: [B] int64, the image that each image is to be mixed with.
        lam: [B] float32 in [0, 1], draws from Beta(alpha, alpha), the share of the own image.
        alpha: parameter of that distribution.
        std: per-channel standard deviation the images are normalised with, for images in [0, 1]; None where unknown.
    """

    images: torch.Tensor
    saliency: torch.Tensor
    partner: torch.Tensor
    lam: torch.Tensor
    alpha: float
    std: tuple[float, ...] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the images."""
        height, width = self.images.shape[-2:]
        return height, width


@dataclass(frozen=True)
class MixPlan:
    """The decisions of one mixed batch; applying them to images and to targets is deterministic and differentiable.

    A mixed image is a sum over K sources: the mask of each times its image, moved. In pairwise methods K is 2 and
    source 0 is the image itself; in Co-Mixup the sources of an output are in order of their label weight.

        mixed image = sum over k of mask[:, k] * (image source[:, k], moved by translation[:, k])
        mixed label = sum over k of lam[:, k] * (label of source[:, k])

    Example:
        >>> partner, mask = torch.tensor([1, 0]), torch.ones(2, 1, 4, 6)
        >>> mask[:, :, :, 3:] = 0  # the own image on the left, the partner on the right
        >>> plan = MixPlan.of_pairs(partner, mask, lam=torch.tensor([0.5, 0.5]))
        >>> plan.mix_images(torch.tensor([1.0, 2.0]).view(2, 1, 1, 1).expand(2, 3, 4, 6))[0, 0, 0]
        tensor([1., 1., 1., 2., 2., 2.])
        >>> plan.mix_target(torch.eye(2))
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])

    Attributes:
        source: [B, K] int64, the images that each output is made of.
        mask: [B, K, H, W] float32 in [0, 1], the weight of each source at each pixel; sums to 1 over K. Must be 0
            where a moved source no longer covers the output: there its border is repeated.
        lam: [B, K] float32 in [0, 1], the weight of each source's label; sums to 1 over K.
        translation: [B, K, 2, h, w] int64, (dy, dx) in pixels for each of h x w tiles of the output (see `translate`),
            positive where content has moved down / right; all sizes but the third may be 1. None where nothing moves.
        box: [B, 4] int64, (top, bottom, left, right) in pixels, bottom and right exclusive: source 1 is
            resized into this box before it moves, and is 0 outside. None where nothing shrinks.
        own: True if source 0 of output i is image i, unmoved.
    """

    source: torch.Tensor
    mask: torch.Tensor
    lam: torch.Tensor
    translation: torch.Tensor | None = None
    box: torch.Tensor | None = None
    own: bool = False

    @classmethod
    def of_pairs(cls, partner: torch.Tensor, mask: torch.Tensor, lam: torch.Tensor) -> "MixPlan":
        """Build the plan that mixes each image with one partner, unmoved.

        Args:
            partner: [B] int64.
            mask: [B, 1, H, W] float32 in [0, 1], the weight of the own image.
            lam: [B] float32 in [0, 1], the weight of the own label.
        """
        source = torch.stack([numbers(len(partner), partner.device), partner], 1)
        return cls(source, torch.cat([mask, 1 - mask], 1), torch.stack([lam, 1 - lam], 1), own=True)

    def _shown(self, images: torch.Tensor, k: int) -> torch.Tensor:
        """Take source k of each output from a batch, shrunk into its box and moved; new but where `own`."""
        if self.own and k == 0:
            return images
        source: torch.Tensor | None = self.source[:, k]
        if self.box is not None and k == 1:
            images, source = shrink(images[source], self.box), None
        if self.translation is not None:
            return translate(images, self.translation[:, min(k, self.translation.shape[1] - 1)], source)
        return images if source is None else images[source]

    def mix_images(self, images: torch.Tensor) -> torch.Tensor:
        """Sum each output's sources, each moved and weighted by its mask.

        Args:
            images: [B, C, H, W], floating point.

        Returns:
            A new tensor of the shape, dtype and memory format of `images`, computed in float32 or better.
        """
        check_images(images)
        channels_last = not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        hidden = self.mask == 0  # where 0 times an infinity or NaN would not be 0
        mixed = (self._shown(images, 0) * self.mask[:, :1]).masked_fill_(hidden[:, :1], 0)
        for k in range(1, self.source.shape[1]):
            mixed.addcmul_(self.mask[:, k : k + 1], self._shown(images, k).masked_fill_(hidden[:, k : k + 1], 0))
        return mixed.to(images.dtype).contiguous(memory_format=layout)

    def mix_target(self, target: torch.Tensor) -> torch.Tensor:
        """Sum the class weights [B, N] of each output's sources, weighted by lam: [B, N] float32.

        A source of weight 0 adds nothing, whatever its class weights.
        """
        check_target(target, len(self.lam), target.shape[-1], multi_label=True)
        lam = self.lam[..., None]
        return (lam * target.float()[self.source]).masked_fill(lam == 0, 0).sum(1)

    def retained(self, saliency: torch.Tensor) -> torch.Tensor:
        """Compute how much of each source's saliency is left in the mixed image.

        Args:
            saliency: [B, 1, h, w], non-negative; enlarged to the image.

        Returns:
            [B, K] float32 in [0, 1]: the mass of the moved map under its mask, as a share of the whole map's; a map
            that shrinks keeps its mass. Each entry is counted by itself, even where two are the same image.
        """
        maps = unit_mass(F.interpolate(saliency.float(), self.mask.shape[-2:], mode="bilinear"))
        kept = [(self.mask[:, k] * self._shown(maps, k)[:, 0]).sum((1, 2)) for k in range(self.source.shape[1])]
        if self.box is not None:
            kept[1] = kept[1] / shrink(maps[self.source[:, 1]], self.box).sum((1, 2, 3)).clamp_min(1e-12)
        return torch.stack(kept, 1)

    def weighted_by(self, saliency: torch.Tensor) -> "MixPlan":
        """Return this plan with label weights by what is seen of each source, as `retained` measures it.

        The weight of a source is its retained share of its own saliency, divided by the sum of these over the sources.
        Where nothing salient is left of any, the weights stay.

        Args:
            saliency: [B, 1, h, w], non-negative.
        """
        seen = self.retained(saliency)
        total = seen.sum(1, keepdim=True)
        return replace(self, lam=torch.where(total > 1e-6, seen / total.clamp_min(1e-6), self.lam))

    def where(self, condition: torch.Tensor, pairs: "MixPlan") -> "MixPlan":
        """Take outputs from this plan where `condition` [B] holds, else from `pairs`: 2 sources, unmoved, no box."""
        if pairs.translation is not None or pairs.box is not None:
            raise ValueError("`pairs` must be a plan in which nothing moves or shrinks, got one that does")
        sources, chosen = max(self.source.shape[1], 2), []
        for either in ((self.source, pairs.source), (self.mask, pairs.mask), (self.lam, pairs.lam)):
            # Sources of no weight (zeros) are added, so that both plans have as many.
            mine, theirs = (F.pad(v, (0, 0) * (v.ndim - 2) + (0, sources - v.shape[1])) for v in either)
            chosen.append(torch.where(condition.view(-1, *[1] * (mine.ndim - 1)), mine, theirs))
        translation, box = self.translation, self.box
        if translation is not None:
            translation = translation * condition.view(-1, 1, 1, 1, 1)
        if box is not None:
            frame = box.new_zeros(4)
            frame[1], frame[3] = self.mask.shape[-2:]
            box = torch.where(condition[:, None], box, frame)
        source, mask, lam = chosen
        return MixPlan(source, mask, lam, translation, box, self.own and pairs.own)
