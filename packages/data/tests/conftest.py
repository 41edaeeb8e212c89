from pathlib import Path

import pytest

from unipic2_data.manifest import Manifest
from unipic2_data.shapes.world import ShapesConfig, write_shapes

COUNTS = {"train": {"t2i": 600, "edit": 600}} | {
    split: {"t2i": 480, "edit": 240} for split in ("validation", "test", "heldout")
}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A small data set of the shapes world, for reading only."""
    return write_shapes(tmp_path_factory.mktemp("data") / "world", ShapesConfig(32, 0, COUNTS))


@pytest.fixture(scope="session")
def photos() -> dict[str, Path]:
    """Real photographs that scikit-image ships."""
    skimage = pytest.importorskip("skimage")
    folder = Path(skimage.__file__).parent / "data"
    names = {
        "astronaut": "astronaut.png",
        "cat": "chelsea.png",
        "coffee": "coffee.png",
        "rocket": "rocket.jpg",
        "gray": "camera.png",
    }
    return {name: folder / file for name, file in names.items() if (folder / file).is_file()}
