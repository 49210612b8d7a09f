"""Pictures of what mixing does, and a report on the saliency: `python -m sage_timm.visualize IMAGES_OR_FOLDER`."""

from .figures import draw_mixed, draw_plans
from .images import load_images
from .report import Report, measure

__all__ = ["Report", "draw_mixed", "draw_plans", "load_images", "measure"]
