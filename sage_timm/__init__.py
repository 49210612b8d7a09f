"""SAGE, saliency-guided mixing of training images, behind the surface of timm's Mixup."""

from .mixup import SageMixup
from .plan import MixPlan
from .saliency import Saliency, create_saliency

__version__ = "0.1.0"
__all__ = ["MixPlan", "SageMixup", "Saliency", "create_saliency"]
