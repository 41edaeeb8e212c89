import pytest

from unipic2_data.errors import DataError
from unipic2_data.workspace import require_same_request, workspace


def fill(out, request, error=None):
    with workspace(out, "make") as work:
        require_same_request(work, request)
        (work / "data").mkdir(exist_ok=True)
        (work / "data" / "file").write_text("x")
        if error is not None:
            raise error


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_output_appears_as_a_whole(tmp_path):
    fill(tmp_path / "deep" / "out", {"a": 1})
    assert (tmp_path / "deep" / "out" / "file").read_text() == "x"
    assert names(tmp_path / "deep") == ["out"]
    with pytest.raises(DataError, match="exists and is not empty"):
        fill(tmp_path / "deep" / "out", {"a": 1})


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out", {})
    assert names(tmp_path) == ["out"]


def test_a_wrong_request_leaves_nothing(tmp_path):
    with pytest.raises(DataError, match="wrong"):
        fill(tmp_path / "out", {}, DataError("wrong"))
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("disk full")])
def test_work_is_kept_and_gone_on_with(tmp_path, error):
    with pytest.raises(type(error)) as stopped:
        fill(tmp_path / "out", {"a": 1, "b": (2,)}, error)
    assert stopped.value.__notes__ == ["what is finished is kept: run the same command again to go on"]
    assert names(tmp_path) == [".out.make"]
    with pytest.raises(DataError, match=r"another a and c\."):
        fill(tmp_path / "out", {"a": 3, "b": [2], "c": 1})
    assert names(tmp_path) == [".out.make"]
    fill(tmp_path / "out", {"a": 1, "b": [2]})
    assert names(tmp_path) == ["out"]
