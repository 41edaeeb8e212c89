from pathlib import Path

from unipic2_apps.ui import history
from unipic2_apps.ui.client import Settings
from unipic2_apps.ui.history import Entry, Histories, Shelf, Versions


def entry(path, words="a"):
    return Entry("draw", words, Settings(seed=1), path, "tiny")


def test_a_shelf_names_pictures_by_what_made_them(tmp_path, picture, as_file):
    shelf = Shelf(tmp_path)
    first = shelf.keep(as_file(picture()), "A red circle, <b>!", 7)
    second = shelf.keep(as_file(picture(), "JPEG"), "../..")
    assert (first.name, second.name) == ("a-red-circle-b_7.png", "picture.jpeg")
    assert first.read_bytes() == as_file(picture())
    assert first.parent != second.parent
    assert first.parent.parent == second.parent.parent == tmp_path


def test_the_oldest_pictures_make_way(tmp_path):
    shelf = Shelf(tmp_path, most_bytes=10)
    kept = [shelf.keep(b"12345") for _ in range(3)]
    assert [path.exists() for path in kept] == [False, True, True]
    assert shelf.keep(b"longer than all that is allowed").exists()
    assert len(list(tmp_path.iterdir())) == 1


def test_browsers_see_their_own_history(tmp_path, monkeypatch):
    shelf, histories = Shelf(tmp_path), Histories()
    paths = [shelf.keep(b"x", f"{index}") for index in range(3)]
    for path in paths[:2]:
        histories.add("a", entry(path, path.stem))
    histories.add("b", entry(paths[2], "of b"))
    assert [each.words for each in histories.of("a")] == ["1", "0"]
    assert [each.words for each in histories.of("b")] == ["of b"]
    assert histories.of("c") == []
    paths[1].unlink()
    assert [each.words for each in histories.of("a")] == ["0"]
    monkeypatch.setattr(history, "MOST_BROWSERS", 2)
    histories.add("c", entry(paths[0]))
    assert histories.of("a") == []
    assert len(histories.of("b")) == 1


def test_histories_end_somewhere(tmp_path):
    path, histories = Shelf(tmp_path).keep(b"x"), Histories()
    for index in range(history.MOST_ENTRIES + 5):
        histories.add("a", entry(path, str(index)))
    words = [each.words for each in histories.of("a")]
    assert (len(words), words[0], words[-1]) == (history.MOST_ENTRIES, "104", "5")


def test_versions_branch_and_go_back():
    versions = Versions()
    assert (versions.picture, versions.before, versions.undo()) == (None, None, False)
    versions.open(Path("0"))
    assert (versions.picture, versions.before, versions.undo()) == (Path("0"), None, False)
    versions.add(Path("1"), "green")
    versions.add(Path("2"), "larger")
    assert (versions.picture, versions.before) == (Path("2"), Path("1"))
    assert versions.undo()
    assert (versions.picture, versions.before) == (Path("1"), Path("0"))
    versions.add(Path("3"), "smaller")
    assert [each.parent for each in versions.items] == [None, 0, 1, 1]
    versions.current = 2
    assert (versions.picture, versions.before) == (Path("2"), Path("1"))
    versions.open(Path("4"))
    assert len(versions.items) == 1
