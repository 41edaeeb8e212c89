import pickle
import time
from urllib.parse import quote

import pytest

from unipic2_data.errors import DataError
from unipic2_data.patience import Patience
from unipic2_data.storage import open_files, open_forward

QUICK = Patience(tries=3, pause=0.01, timeout=5, rest=0.3)
DATA = bytes(range(256)) * 4000
NAME = "train/a'b #1%.tar"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / NAME).write_bytes(DATA)
    return tmp_path


@pytest.mark.parametrize("place", ["disk", "web", "command"])
def test_any_part_of_a_file(folder, serve, place):
    places = {"disk": str(folder), "web": serve(folder).address + "/", "command": f"pipe: cat {folder}/{{}}"}
    opened = open_files(places[place], QUICK)
    for start, length in ((0, 10), (300, 1), (10**6, 50_000), (len(DATA), 5), (2 * len(DATA), 5), (7, 0)):
        assert opened.part(NAME, start, length) == DATA[start : start + length]
    assert opened.whole(NAME) == DATA
    assert pickle.loads(pickle.dumps(opened)).part(NAME, 5, 3) == DATA[5:8]
    with pytest.raises(DataError, match=r"cannot read .*nothing\.tar"):
        opened.part("nothing.tar", 0, 1)


def test_a_server_that_is_busy_or_hangs_up_is_asked_for_the_rest(folder, serve):
    server = serve(folder)
    server.busy, server.breaks = 2, 5
    assert open_files(server.address, QUICK).part(NAME, 3, 500_000) == DATA[3:500_003]
    assert len(server.requests) == 8  # each broken answer brought half of what was left


def test_a_dead_server_costs_its_pauses_once(folder, serve):
    server = serve(folder)
    server.dead = True
    files = open_files(server.address, Patience(tries=3, pause=0.02, rest=0.3))
    with pytest.raises(DataError, match=r"cannot read http.*%25\.tar from byte \d+ on, tried 3 times: the connection"):
        files.part(NAME, 0, 3)
    asked = len(server.requests)
    with pytest.raises(DataError, match="tried 3 times"):
        files.part(NAME, 100, 3)
    assert len(server.requests) == asked
    server.dead = False
    time.sleep(0.3)
    assert files.part(NAME, 100, 3) == DATA[100:103]


def test_a_server_that_is_gone(folder, serve):
    server = serve(folder)
    server.close()
    with pytest.raises(DataError, match="tried 3 times"):
        open_files(server.address, QUICK).whole(NAME)


def test_a_server_without_ranges(folder, serve):
    server = serve(folder)
    server.ranges = False
    assert open_files(server.address, QUICK).whole(NAME) == DATA
    with pytest.raises(DataError, match="knows no ranges"):
        open_files(server.address, QUICK).part(NAME, 10, 3)


def test_a_command_runs_once_a_shard_and_again_if_it_fails(folder, tmp_path):
    script = tmp_path / "fetch.sh"
    script.write_text(
        f"echo x >> {tmp_path}/runs\n"
        f'if [ $(wc -l < {tmp_path}/runs) = 1 ]; then head -c 600000 "$1"; echo no route >&2; exit 7; fi\n'
        'cat "$1"\n'
    )
    files = open_files(f"pipe:sh {script} {folder}/{{}}", QUICK)
    assert files.part(NAME, 700_000, 10) == DATA[700_000:700_010]
    assert files.part(NAME, 5, 10) == DATA[5:15]
    assert (tmp_path / "runs").read_text() == "x\nx\n"
    with pytest.raises(DataError, match=r"tried 3 times: exit code 7: no route"):
        open_files("pipe:echo no route >&2; exit 7; {}", QUICK).part(NAME, 0, 1)


def test_a_command_needs_a_place_for_the_path():
    with pytest.raises(DataError, match=r"must have \{\} where the path"):
        open_files("pipe:cat")


def test_front_to_back_over_breaks(folder, serve):
    server = serve(folder)
    server.breaks = 2
    for place in (str(folder / NAME), f"{server.address}/{quote(NAME)}", f'pipe:cat "{folder / NAME}"'):
        with open_forward(place, QUICK) as file:
            assert file.read(1000) == DATA[:1000]
            assert file.read(10**7) == DATA[1000:]
            assert file.read(10) == b""


def test_no_urllib3(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "urllib3", None)
    with pytest.raises(DataError, match=r"unipic2-data\[http\]"):
        open_files("http://127.0.0.1:1").whole(NAME)
