import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


class Files:
    """Makes small files in foreign layouts."""

    def picture(self, value: int = 0, size: tuple[int, int] = (24, 16), kind: str = "JPEG") -> bytes:
        """Return an encoded picture of width x height pixels; another value, another picture."""
        pixels = np.random.default_rng(value).integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(file, kind)
        return file.getvalue()

    def write(self, file: Path, data: bytes | str) -> Path:
        """Write a file and the folders above it."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data if isinstance(data, bytes) else data.encode())
        return file

    def lines(self, file: Path, rows: list) -> Path:
        """Write rows as JSON lines."""
        return self.write(file, "".join(json.dumps(row) + "\n" for row in rows))

    def tar(self, file: Path, members: dict[str, bytes | str]) -> Path:
        """Write a tar as webdataset's own writer does, with a fractional time and so with pax headers."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(file, "w") as archive:
            for name, content in members.items():
                data = content if isinstance(content, bytes) else content.encode()
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(data), 1.5
                archive.addfile(info, io.BytesIO(data))
        return file

    def parquet(self, file: Path, rows: list[dict], group: int = 2) -> Path:
        """Write rows as Parquet with row groups of two rows."""
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        file.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=group)
        return file


@pytest.fixture(scope="session")
def files() -> Files:
    """Makes small files in foreign layouts."""
    return Files()
