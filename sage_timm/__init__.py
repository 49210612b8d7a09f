"""SAGE, saliency-guided mixing of training images, behind the surface of timm's Mixup."""

from .plan import MixPlan
from .saliency import Saliency, create_saliency
from .surfaces.timm import MethodMixup, SageMixup, create_mixup
from .surfaces.torchvision import SageMix

__version__ = "0.2.0"
__all__ = ["MethodMixup", "MixPlan", "SageMix", "SageMixup", "Saliency", "create_mixup", "create_saliency"]
