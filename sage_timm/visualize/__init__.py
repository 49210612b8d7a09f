"""Pictures of what mixing does: `python -m sage_timm.visualize IMAGES_OR_FOLDER`."""

from .figures import draw_mixed, draw_plans
from .images import load_images

__all__ = ["draw_mixed", "draw_plans", "load_images"]
