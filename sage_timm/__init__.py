"""SAGE, saliency-guided mixing of training images, behind the surface of timm's Mixup."""

from .mixup import MethodMixup, SageMixup, create_mixup
from .plan import MixPlan
from .saliency import Saliency, create_saliency
from .transforms import SageMix

__version__ = "0.1.0"
__all__ = ["MethodMixup", "MixPlan", "SageMix", "SageMixup", "Saliency", "create_mixup", "create_saliency"]
