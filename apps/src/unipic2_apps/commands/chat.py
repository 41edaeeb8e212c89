"""``unipic2 chat``."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipic2_apps.errors import UsageError, user_errors
from unipic2_apps.options import AnswerOptions, ModelOptions, OutputOptions, PictureOptions

if TYPE_CHECKING:
    from unipic2_apps.tasks import Task
    from unipic2_unified import UniPic2

__all__ = ["chat"]

HELP = """/draw PROMPT        make a picture
/edit INSTRUCTION   edit the last picture
/open IMAGE         go on with a picture of yours
/undo               go back to the picture before
/seed NUMBER        seed of the pictures from now on
/help, /quit
Everything else is a question about the last picture, or about nothing if there is none."""


def chat(
    image: str,
    *,
    out: str = "pictures",
    pictures: PictureOptions,
    answers: AnswerOptions,
    model: ModelOptions,
) -> None:
    """Draw, edit and ask, turn by turn: edits go on from the last picture, and questions are about it.

    This needs a MetaQuery checkpoint with its VLM. Each picture is kept, with its parameters. Lines are read from
    the terminal, or from a file (unipic2 chat < turns.txt).

    Args:
        image: A picture to begin with.
        out: Folder for the pictures.
        pictures: How they are made.
        answers: How answers are chosen.
        model: Who one talks with.
    """
    from unipic2_apps.loading import load, model_facts

    if pictures.num_images != 1:
        msg = f"--num-images is {pictures.num_images}, but a turn makes one picture: use `unipic2 generate`."
        raise UsageError(msg)
    start = None if not image else _existing(image)
    loaded = load(model, "ask")
    conversation = Conversation(loaded, model_facts(loaded, model), OutputOptions(out=out), pictures, answers, start)
    for line in _lines():
        try:
            if not conversation.turn(line):
                break
        except user_errors() as error:
            print(f"error: {error}")


class Conversation:
    """Pictures one after the other, and what is said about the last of them.

    Args:
        model: The model.
        facts: Facts of it.
        output: Where pictures go.
        pictures: How they are made.
        answers: How answers are chosen.
        image: The picture to begin with, if any.
    """

    def __init__(
        self,
        model: "UniPic2",
        facts: dict[str, Any],
        output: OutputOptions,
        pictures: PictureOptions,
        answers: AnswerOptions,
        image: Path | None,
    ) -> None:
        self.model, self.facts, self.output = model, facts, output
        self.pictures, self.answers = pictures, answers
        self.images = [] if image is None else [image]

    def turn(self, line: str) -> bool:
        """Take a turn, and tell whether the conversation goes on.

        Raises:
            UsageError: If the line can't be understood or carried out; the conversation is as before.
        """
        word, _, rest = line.strip().partition(" ")
        if not word.startswith("/"):
            if word:
                self._ask(line.strip())
            return True
        if word in ("/quit", "/exit"):
            return False
        turns = {
            "/draw": self._draw,
            "/edit": self._edit,
            "/open": self._open,
            "/undo": self._undo,
            "/seed": self._seed,
            "/help": lambda _: print(HELP),
        }
        if word not in turns:
            msg = f"unknown {word}; known: {', '.join(turns)}, /quit."
            raise UsageError(msg)
        turns[word](rest.strip())
        return True

    def _ask(self, question: str) -> None:
        from unipic2_apps.tasks import open_image

        pieces = self.model.ask(
            open_image(self.images[-1]) if self.images else None,
            question,
            stream=True,
            max_new_tokens=self.answers.max_new_tokens,
            temperature=self.answers.temperature,
            top_p=self.answers.top_p,
            seed=self.answers.answer_seed,
        )
        for piece in pieces:
            print(piece, end="", flush=True)
        print()

    def _draw(self, prompt: str) -> None:
        from unipic2_apps import tasks

        self._make(tasks.prompts([prompt], None, self.pictures))

    def _edit(self, instruction: str) -> None:
        from unipic2_apps import tasks

        if not self.images:
            msg = "there is no picture yet: /draw or /open one."
            raise UsageError(msg)
        if not instruction:
            msg = "say how to edit it: /edit make the circle green."
            raise UsageError(msg)
        self._make(tasks.edits(str(self.images[-1]), [instruction], None, self.pictures, original_size=False))

    def _make(self, wanted: "list[Task]") -> None:
        from unipic2_apps.making import make

        (entry,) = make(self.model, wanted, self.facts, self.output, lambda _path: None)
        self.images.append(entry.path)
        print(entry.path)

    def _open(self, image: str) -> None:
        from unipic2_apps.tasks import open_image

        open_image(image)
        self.images.append(Path(image).expanduser())

    def _undo(self, _rest: str) -> None:
        if len(self.images) < 2:
            msg = "there is no picture before."
            raise UsageError(msg)
        self.images.pop()
        print(self.images[-1])

    def _seed(self, number: str) -> None:
        if not number.isdecimal():
            msg = f"/seed {number}: expected a number, such as /seed 7."
            raise UsageError(msg)
        self.pictures = replace(self.pictures, seed=int(number))


def _existing(image: str) -> Path:
    from unipic2_apps.tasks import open_image

    open_image(image)
    return Path(image).expanduser()


def _lines() -> Iterator[str]:
    """Yield lines of the terminal, with a prompt, or of standard input."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    print(HELP)
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
