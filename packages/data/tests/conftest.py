import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

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


class Server:
    """A web server of a folder that breaks when it is told to.

    Attributes:
        busy: Answers with status 503 that are still to come.
        breaks: Answers that are still to be broken off in the middle.
        dead: Whether every answer is broken off before its first byte.
        ranges: Whether ranges are known.
        requests: The paths that were asked for.
    """

    def __init__(self, root: Path) -> None:
        self.busy = self.breaks = 0
        self.dead, self.ranges, self.requests = False, True, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append(self.path)
                if outer.busy:
                    outer.busy -= 1
                    self.send_error(503)
                    return
                file = root / unquote(self.path).lstrip("/")
                if not file.is_file():
                    self.send_error(404)
                    return
                data, asked = file.read_bytes(), self.headers.get("Range")
                if asked and outer.ranges:
                    start, _, stop = asked.removeprefix("bytes=").partition("-")
                    if int(start) >= len(data):
                        self.send_error(416)
                        return
                    data = data[int(start) : int(stop) + 1 if stop else None]
                self.send_response(206 if asked and outer.ranges else 200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if outer.dead or outer.breaks:
                    outer.breaks = max(0, outer.breaks - 1)
                    self.wfile.write(data[: 0 if outer.dead else len(data) // 2])
                    self.close_connection = True
                    return
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Server]]:
    """Serves folders until the end of the test."""
    servers = []

    def start(root: Path) -> Server:
        servers.append(Server(root))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
