import os

import numpy as np
import pytest
import timm
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

from sage_timm import create_saliency

# The same examples each time; `--hypothesis-profile nightly` or HYPOTHESIS_PROFILE=nightly draws new ones.
checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
settings.register_profile("ci", derandomize=True, database=None, deadline=None, suppress_health_check=checks)
settings.register_profile("nightly", settings.get_profile("ci"), derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser):
    parser.addoption("--calls", type=int, default=150, help="calls of SageMixup in tests/surfaces/test_long_run.py")


@pytest.fixture(autouse=True)
def seeded():
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model():
    torch.manual_seed(1)
    return timm.create_model("test_resnet", num_classes=5)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, tiny_model):
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save({"arch": "test_resnet", "state_dict": tiny_model.state_dict()}, path)
    return str(path)


@pytest.fixture(scope="session")
def spectral():
    return create_saliency("spectral")


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """Three classes of 8 training and 2 validation images, 24 x 24, each class a colour with noise."""
    root = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 8), ("validation", 2)):
        for label in range(3):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(0, 80, (24, 24, 3), generator=generator, dtype=torch.uint8)
                pixels[..., label] += 150
                Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    return root


@pytest.fixture
def pictures(tmp_path):
    """A folder with three pictures of different sizes."""
    for i, size in enumerate([(40, 30), (30, 50), (35, 35)]):
        Image.effect_noise(size, 80).convert("RGB").save(tmp_path / f"picture{i}.png")
    return tmp_path
