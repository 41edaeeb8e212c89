from dataclasses import dataclass, field

import pytest
from jsonargparse.typing import PositiveInt

from unipic2_apps.arguments import call
from unipic2_apps.cli import Command
from unipic2_apps.errors import UsageError


@dataclass(frozen=True)
class Group:
    """A group.

    Args:
        num_images: How many.
        lora: Adapters.
        t5: Use it.
        tiling: Tiles.
    """

    num_images: PositiveInt = 1
    lora: list[str] = field(default_factory=list)
    t5: bool = True
    tiling: bool = False


CALLS = []


def verb(image: str, instruction: list[str], *, negative_prompt: str = "", scale: float = 1.0, group: Group) -> None:
    """Do something.

    Args:
        image: A picture,
            or a folder.
        instruction: How.
        negative_prompt: What not.
        scale: Of it.
        group: The rest.
    """
    CALLS.append({"image": image, "instruction": instruction, "not": negative_prompt, "scale": scale, "group": group})


COMMAND = Command("", "", 'IMAGE "INSTRUCTION" ...', ("image?", "instruction*"), ("unipic2 verb a.png",))


def run(*words):
    assert call(verb, "verb", COMMAND, words) == 0
    return CALLS.pop()


def test_defaults():
    assert run() == {"image": "", "instruction": [], "not": "", "scale": 1.0, "group": Group()}


def test_positional_words_stand_anywhere():
    got = run("a.png", "--scale", "2", "make it red", "--num-images=3", "-5 degrees", "--", "--odd")
    assert got["image"] == "a.png"
    assert got["instruction"] == ["make it red", "-5 degrees", "--odd"]
    assert got["scale"] == 2.0
    assert got["group"].num_images == 3


def test_switches_lists_short_names_and_values_with_a_hyphen():
    got = run("-n", "2", "--no-t5", "--tiling", "--lora", "a", "--lora=b:0.5", "--negative_prompt", "--red")
    assert got["group"] == Group(2, ["a", "b:0.5"], t5=False, tiling=True)
    assert type(got["group"].num_images) is int
    assert got["not"] == "--red"
    assert run("--t5", "false", "a.png")["group"].t5 is False
    assert run("--t5=false", "a.png")["image"] == "a.png"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num-image", "3"], "unknown option --num-image. Did you mean --num-images?"),
        (["--no-scale"], "unknown option --no-scale"),
        (["-x"], "unknown option -x"),
        (["--scale"], "--scale needs a value"),
        (["--scale", "large"], "scale"),
        (["-n", "0"], "num_images"),
    ],
)
def test_bad_words_are_one_line(words, message):
    with pytest.raises(UsageError) as caught:
        run(*words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_surplus_words():
    needs = Command("", "", "IMAGE INSTRUCTION", ("image", "instruction"))
    with pytest.raises(UsageError, match="IMAGE is missing"):
        call(verb, "verb", needs, [])
    with pytest.raises(UsageError, match="'red' is one word too many"):
        call(verb, "verb", needs, ["a.png", "make it", "red"])


def test_help_shows_options_as_people_type_them(capsys):
    assert call(verb, "verb", COMMAND, ["a.png", "--help"]) == 0
    shown = capsys.readouterr().out
    assert 'usage: unipic2 verb IMAGE "INSTRUCTION" ... [options]' in shown
    assert "IMAGE        A picture, or a folder." in shown
    for text in (
        "--negative-prompt",
        "-n, --num-images NUM_IMAGES",
        "--lora LORA",
        "--tiling\n",
        "  unipic2 verb a.png",
    ):
        assert text in shown
    assert not CALLS
