"""MMBench's rules (open-compass/VLMEvalKit, arXiv 2307.06281): which option a reply means, and circular evaluation.

Rules alone, the toolkit's ``exact_matching``: where they find no option, the official judge model would be asked, and
without one the reply is wrong. Every question is asked with its options rotated, and counts only if every rotation is
answered right.

Quirks of the official code, kept by ``official=True`` (the default); ``official=False`` mends them:
    - `can_infer` takes the article "A" for option A ("A rabbit"); "the answer is blue" means option B, because the
      letter after "answer is" needs no end, and only A to D are read there; a lower-case letter is no option; option
      texts match within words ("cat" in "category"), and not at all in replies longer than twice the options.
    - `circular_group` is content with the rotations that are there.

Not reproduced: with the environment variable ``VERBOSE`` set, the official code refuses replies with a word "A".
"""

import math
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from unipic2_evals.checks import as_field, as_mapping, as_number, as_rows

__all__ = ["ROTATION", "can_infer", "circular_group", "vanilla_group"]

ROTATION = 1_000_000
"""Rotation ``k`` of a question has the index of the question plus ``k`` times this."""
REFUSED = "Z"
"""Stands for a model that refuses to answer; it is never right."""
API_FAILURE = "Failed to obtain answer via API"
REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
PUNCTUATION = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
LAST_TOKENS = 4
"""How near the end of the reply an option's letter must stand."""

Option = str | Literal[False]


def can_infer(answer: str, choices: Mapping[str, str], official: bool = True) -> Option:
    """Return the option that a reply means.

    First a letter: the only option's letter among the words, if it is one of the last four. Then the letter in
    "answer is X". Then a text: the only option whose text is in the reply, in any case.

    Args:
        answer: The model's reply; anything that is no text is read as Python prints it.
        choices: Text of each option by its capital letter.
        official: True reads as the official code does. False wants whole words, tells the article "A" from option A if
            the text of another option follows it, takes a lone lower-case letter, and has no limit of length.

    Returns:
        The letter; "Z" for a refusal; False if no option can be inferred.

    Raises:
        ValueError: If an option is not named by a capital letter.
    """
    texts = {letter: str(text).lower() for letter, text in as_mapping(choices, "choices").items()}
    wrong = [letter for letter in texts if letter not in list(string.ascii_uppercase)]
    if wrong:
        message = f"choices: expected capital letters as keys, got {wrong}"
        raise ValueError(message)
    reply = str(answer)
    read = (_letter, _text) if official else (_letter_unofficially, _text_unofficially)
    return read[0](reply, texts) or read[1](reply.lower(), texts)


def circular_group(rows: Sequence[Mapping[str, Any]], official: bool = True) -> int:
    """Decide a question from all rotations of its options, without a judge model.

    Args:
        rows: The rotations: ``index``, ``GT`` (the right letter), ``prediction`` (the model's reply) and the options by
            letter; an option that is None or NaN is absent.
        official: True decides from the rotations that are there. False refuses a question with fewer rotations than
            options. Passed on to `can_infer` too.

    Returns:
        1 if every rotation is answered right, else 0.

    Raises:
        ValueError: If there are no rows, they belong to several questions, or (unofficially) rotations are missing.
    """
    indices = _indices(rows)
    options = max(len(_choices(row)) for row in rows)
    if not official and len(set(indices)) < options:
        message = (
            f"question {min(indices)}: {len(set(indices))} rotations of {options} options; is a prediction missing?"
        )
        raise ValueError(message)
    return int(all(_right(row, official) for row in rows))


def vanilla_group(rows: Sequence[Mapping[str, Any]], official: bool = True) -> int:
    """Decide a question from its first rotation alone, without a judge model.

    Args:
        rows: The rotations, as `circular_group` takes them.
        official: See `can_infer`.

    Returns:
        1 if the rotation with the smallest index is answered right, else 0; never less than `circular_group`.

    Raises:
        ValueError: If there are no rows, or they belong to several questions.
    """
    indices = _indices(rows)
    return int(_right(rows[indices.index(min(indices))], official))


def _letter(reply: str, texts: Mapping[str, str]) -> Option:
    if API_FAILURE in reply:
        return False
    if any(refusal in reply for refusal in REFUSALS):
        return REFUSED
    words = reply.translate(PUNCTUATION).split()
    named = [letter for letter in texts if letter in words]
    if len(named) == 1 and words.index(named[0]) >= len(words) - LAST_TOKENS:
        return named[0]
    if not named and REFUSED in words:
        return REFUSED
    explicit = re.search(r"answer\s+is\s+\**([ABCD])\**", reply, re.IGNORECASE)
    return explicit[1].upper() if explicit and explicit[1].upper() in texts else False


def _text(reply: str, texts: Mapping[str, str]) -> Option:
    if len(reply) > 2 * sum(len(text) for text in texts.values()):
        return False
    named = [letter for letter, text in texts.items() if text in reply]
    return named[0] if len(named) == 1 else False


def _letter_unofficially(reply: str, texts: Mapping[str, str]) -> Option:
    if API_FAILURE in reply:
        return False
    if any(refusal in reply for refusal in REFUSALS):
        return REFUSED
    explicit = re.findall(r"(?i:answer)(?:\s+(?i:is)|\s*:)[\s*(:]*([A-Z])(?!\w)", _without_articles(reply, texts))
    if explicit and explicit[-1] in texts:
        return str(explicit[-1])
    words = _without_articles(reply, texts).translate(PUNCTUATION).split()
    if len(words) == 1:
        words = [words[0].upper()]
    named = [letter for letter in texts if letter in words]
    if len(named) == 1:
        return named[0]
    return REFUSED if not named and REFUSED in words else False


def _text_unofficially(reply: str, texts: Mapping[str, str]) -> Option:
    named = [letter for letter, text in texts.items() if text and re.search(rf"(?<!\w){re.escape(text)}(?!\w)", reply)]
    return named[0] if len(named) == 1 else False


def _without_articles(reply: str, texts: Mapping[str, str]) -> str:
    """Drop each "A" that is followed by the text of another option."""
    others = "|".join(re.escape(text) for letter, text in texts.items() if letter != "A" and text)
    return re.sub(rf"(?<!\w)A\s+(?=(?i:{others})(?!\w))", "", reply) if others else reply


def _indices(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    indices = [
        int(as_number(as_field(row, "index", f"row {number}"), f"index of row {number}"))
        for number, row in enumerate(as_rows(rows, "rows"))
    ]
    questions = sorted({index % ROTATION for index in indices})
    if len(questions) > 1:
        message = f"rows: expected the rotations of one question, got those of {questions}"
        raise ValueError(message)
    return indices


def _choices(row: Mapping[str, Any]) -> dict[str, str]:
    options = {letter: row[letter] for letter in string.ascii_uppercase if letter in row}
    return {
        letter: str(text)
        for letter, text in options.items()
        if text is not None and not (isinstance(text, float) and math.isnan(text))
    }


def _right(row: Mapping[str, Any], official: bool) -> bool:
    name = f"row of index {row['index']}"
    return can_infer(as_field(row, "prediction", name), _choices(row), official) == as_field(row, "GT", name)
