"""`lightning` is this project's command; pip lets any other package overwrite it without a word."""

from importlib.metadata import distributions
from pathlib import PurePath

NAMES = {"lightning", "lightning.exe"}


def test_no_dependency_installs_a_lightning_command():
    by_entry_point = {
        dist.metadata["Name"]
        for dist in distributions()
        for point in dist.entry_points
        if point.group in {"console_scripts", "gui_scripts"} and point.name == "lightning"
    }
    by_file = {
        dist.metadata["Name"]
        for dist in distributions()
        for path in dist.files or []
        if path.name in NAMES and PurePath(path).parent.name in {"bin", "Scripts"}
    }
    assert by_entry_point | by_file == {"unipic2-train"}


def test_no_torchvision():
    assert not [dist for dist in distributions() if dist.metadata["Name"] == "torchvision"]
