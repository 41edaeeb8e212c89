import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from unipic2_data.loader import SampleStore
from unipic2_data.manifest import Manifest

COMMAND = [sys.executable, "-c", "from unipic2_data.cli import main; main()"]
SMALL = ["--validation", "8", "--test", "8", "--heldout", "8", "--workers", "1"]


def run(*arguments, **options):
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, **options)


def test_shapes(tmp_path):
    done = run("shapes", tmp_path / "out", "--size", 32, "--t2i", 40, "--edit", 20, "--seed", 5, *SMALL)
    assert done.returncode == 0, done.stderr
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.counts["train"] == {"t2i": 40, "edit": 20}
    assert manifest.counts["test"] == {"t2i": 8, "edit": 8}
    assert manifest.generator["seed"] == 5
    assert str(tmp_path / "out" / "manifest.json") in done.stdout
    again = run("shapes", tmp_path / "out", "--t2i", 40)
    assert again.returncode == 2
    assert again.stderr.startswith("error: ")
    assert "not empty" in again.stderr


def test_text_to_image_only(tmp_path):
    done = run("shapes", tmp_path / "out", "--t2i", 10, "--edit", 0, *SMALL)
    assert done.returncode == 0, done.stderr
    assert Manifest.load(tmp_path / "out").counts["test"] == {"t2i": 8}


def test_import(tmp_path):
    (tmp_path / "in").mkdir()
    for n in range(4):
        Image.new("RGB", (8, 8)).save(tmp_path / "in" / f"{n}.png")
        (tmp_path / "in" / f"{n}.txt").write_text("black" if n else "")
    done = run("import", tmp_path / "in", tmp_path / "out", "--validation-fraction", 0.34)
    assert done.returncode == 0, done.stderr
    assert "read 4 samples, wrote 3 (train: 2 t2i; validation: 1 t2i), skipped 1" in done.stdout
    assert "1 x empty caption: 0.png" in done.stdout


def test_import_of_rows_by_their_fields(tmp_path, files):
    rows = [{"img": "1.jpg", "short": "a", "long": ["b", "c"]}, {"img": "2.jpg", "short": ""}]
    files.write(tmp_path / "pictures" / "1.jpg", files.picture(1))
    source = files.lines(tmp_path / "rows.jsonl", rows)
    fields = ["--fields.target", "img", "--fields.text", "[short,long]"]
    options = ["--image-root", tmp_path / "pictures", "--validation-fraction", 0, "--licence", "MIT", *fields]
    done = run("import", source, tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    assert "read 2 samples, wrote 1 (train: 1 t2i), skipped 1" in done.stdout
    assert "1 x empty caption: rows.jsonl:2" in done.stdout
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.generator["fields"][0]["text"] == ["short", "long"]
    assert SampleStore(manifest, "train").read("t2i", 0).meta["captions"] == ["a", "b", "c"]


def test_import_by_preset(tmp_path, files):
    files.tar(tmp_path / "in" / "data_000000.tar", {"1.jpg": files.picture(1), "1.json": '{"prompt": "x"}'})
    done = run("import", tmp_path / "in", tmp_path / "out", "--preset", "text-to-image-2m", "--validation-fraction", 0)
    assert done.returncode == 0, done.stderr
    assert SampleStore(Manifest.load(tmp_path / "out"), "train").read("t2i", 0).meta["licence"] == "MIT"


def test_presets():
    done = run("presets")
    assert done.returncode == 0, done.stderr
    assert "TIGER-Lab/OmniEdit-Filtered-1.2M" in done.stdout
    one = run("presets", "--name", "omniedit")
    assert "edited_prompt_list" in one.stdout


@pytest.mark.slow
def test_an_interrupted_import_goes_on(tmp_path, files):
    for n in range(400):
        files.write(tmp_path / "in" / f"{n}.jpg", files.picture(n, (640, 480)))
        files.write(tmp_path / "in" / f"{n}.txt", str(n))
    command = [*COMMAND, "import", str(tmp_path / "in"), str(tmp_path / "out"), "--workers", "1"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not list(tmp_path.glob(".out.import/parts/*/.*.partial")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == (
        "error: interrupted; what is finished is kept: run the same command again to go on"
    )
    assert not (tmp_path / "out").exists()
    done = run(*command[3:])
    assert done.returncode == 0, done.stderr
    assert "wrote 400" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_looking_at_a_data_set(world, tmp_path):
    done = run("verify", world.root, "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert "3360 samples, no damage" in done.stdout
    done = run("stats", world.root, "--plot", tmp_path / "s.png", "--json", tmp_path / "s.json", "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert "licence: CC0-1.0 3360" in done.stdout
    assert json.loads((tmp_path / "s.json").read_text())["samples"] == 3360
    assert (tmp_path / "s.png").stat().st_size > 10_000
    done = run("inspect", world.root, tmp_path / "look", "--count", 6, "--kind", "edit")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "look").iterdir()) == ["index.html", "sheet.png"]


def test_damage_fails(tmp_path):
    run("shapes", tmp_path / "out", "--t2i", 20, "--edit", 0, *SMALL)
    tar = tmp_path / "out" / "train" / "t2i-00000.tar"
    content = bytearray(tar.read_bytes())
    content[700] ^= 1
    tar.write_bytes(content)
    done = run("verify", tmp_path / "out", "--workers", 1)
    assert done.returncode == 2
    assert "train/t2i-00000.tar: checksum differs" in done.stderr


def test_index_and_split(tmp_path, files):
    members = {
        f"{n}.{suffix}": files.picture(n) if suffix == "jpg" else "x" for n in range(8) for suffix in ("jpg", "txt")
    }
    files.tar(tmp_path / "in" / "a.tar", members)
    done = run("index", tmp_path / "in", "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert "wrote 8 (train: 8 t2i)" in done.stdout
    (tmp_path / "in" / "samples.npz").unlink()
    done = run("table", tmp_path / "in", "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert "8 samples" in done.stdout
    assert (tmp_path / "in" / "samples.npz").is_file()
    done = run("split", tmp_path / "in", tmp_path / "out", "--validation", 0.25, "--test", 0.1, "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert Manifest.load(tmp_path / "out").counts == {"test": {"t2i": 1}, "train": {"t2i": 5}, "validation": {"t2i": 2}}


class Judge(BaseHTTPRequestHandler):
    """Gives every picture six points."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        answer = json.dumps({"choices": [{"message": {"content": '{"quality": 6}'}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@pytest.fixture
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_curation_from_end_to_end(tmp_path, files, address):
    """Import, find duplicates and leaks, score, recaption, filter."""
    captions = ["a photo of a cat", "blue hills", "blue hills again", "a quiet street", "red roofs"]
    for n, caption in enumerate(captions):
        files.write(tmp_path / "in" / f"{n}.jpg", files.picture(1 if n == 2 else n, (96, 64)))
        files.write(tmp_path / "in" / f"{n}.txt", caption)
    prompts = files.lines(tmp_path / "prompts.jsonl", [{"prompt": "a photo of a dog", "include": [{"class": "dog"}]}])
    data, out = tmp_path / "data", tmp_path / "out"
    commands = [
        ("import", tmp_path / "in", data, "--licence", "MIT", "--validation-fraction", 0, "--workers", 1),
        ("duplicates", data, tmp_path / "d.jsonl", "--workers", 1),
        ("leaks", data, prompts, tmp_path / "l.jsonl", "--workers", 1),
        ("judge", data, tmp_path / "j.jsonl", address, "m"),
        ("recaption", data, tmp_path / "r.jsonl", address, "m"),
        (
            *("filter", data, out, "--drop", f"{tmp_path / 'd.jsonl'},{tmp_path / 'l.jsonl'}", "--workers", 1),
            *(
                "--notes",
                f"{tmp_path / 'j.jsonl'},{tmp_path / 'r.jsonl'}",
                "--scores",
                "quality>=6",
                "--licences",
                "MIT,CC*",
            ),
        ),
    ]
    said = []
    for command in commands:
        done = run(*command)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert "data: 1 near duplicates" in said[1]
    assert "template: 1 samples" in said[2]
    assert "5 noted" in said[3]
    assert "wrote 3 (train: 3 t2i), skipped 2" in said[5]
    assert "1 x near duplicate" in said[5]
    assert "1 x benchmark prompt (template)" in said[5]
    sample = SampleStore(Manifest.load(out), "train").read("t2i", 0)
    assert sample.meta["scores"] == {"quality": 6}
    assert sample.meta["captions"] == ["blue hills", '{"quality": 6}']


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shapes", "{out}", "--size", "33"], "--size must be an even number"),
        (["shapes", "{out}", "--t2i", "-1"], "--size must be an even number"),
        (["shapes", "{out}", "--t2i", "0", "--edit", "0"], "no samples at all"),
        (["import", "{out}/absent", "{out}"], "cannot import"),
        (["import", "{out}/absent", "{out}", "--validation_fraction", "2"], "validation fraction"),
        (["filter", "{out}/absent", "{out}"], "no data set at"),
        (["filter", "{out}/absent", "{out}", "--scores", "sc"], "no rule about a score"),
        (["duplicates", "{out}/absent", "{out}", "--distance", "9"], "distance must be between 0 and 7"),
        (["leaks", "{out}/absent", "{out}/prompts", "{out}"], "cannot read prompts"),
        (["stats", "{out}/absent"], "no data set at"),
        (["verify", "{out}/absent"], "no data set at"),
        (["index", "{out}/absent"], "no tars at"),
        (["import", "{out}/absent", "{out}", "--preset", "omni"], "no preset named 'omni'"),
        (["import", "{out}/absent", "{out}", "--preset", "redcaps5m-recap"], "img2dataset"),
        (["import", "{out}/absent", "{out}", "--preset", "omniedit", "--format", "tar"], "name either the preset"),
    ],
)
def test_bad_requests_exit_with_one_line(tmp_path, arguments, message):
    done = run(*(argument.format(out=tmp_path / "out") for argument in arguments))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_unknown_option(tmp_path):
    done = run("shapes", tmp_path / "out", "--colour", "red")
    assert done.returncode == 2
    assert "colour" in done.stderr


def test_disk_full(tmp_path):
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = run("shapes", tmp_path / "out", "--t2i", 400, "--edit", 0, *SMALL, preexec_fn=limit)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "nothing was written" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("workers", "moment"), [("1", "train/*"), ("2", "train/*"), ("2", "")])
def test_interrupt_leaves_nothing(tmp_path, workers, moment):
    command = [*COMMAND, "shapes", str(tmp_path / "out"), "--t2i", "200000", "--workers", workers]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Started in the background, the test run ignores Ctrl-C, and so would its children: a terminal's do not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while not list(tmp_path.glob(f".out.partial*/{moment}")):
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does: every process of the group
        _, errors = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert "error: interrupted" in errors
    assert list(tmp_path.iterdir()) == []


def test_help_is_instant():
    code = (
        "import sys\nsys.argv[1:] = ['--help']\nfrom unipic2_data.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'numpy', 'PIL', 'scipy', 'webdataset'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "shapes" in done.stdout
    assert "import" in done.stdout
