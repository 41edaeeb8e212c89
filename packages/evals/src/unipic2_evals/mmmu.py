"""MMMU's rules (arXiv 2311.16502): reading replies to multiple-choice and open questions, and scoring them.

The functions of the official repository live on in EvolvingLMMs-Lab/lmms-eval, which is followed here. VLMEvalKit
scores the same questions in another way; `answer_correct` knows both, as ``variant``:
    - "lmms_eval": multiple choice by `parse_multi_choice`, open questions by `parse_open` and `eval_open`.
    - "vlmevalkit": option matching of `unipic2_evals.mmbench`; an open question becomes a choice between its answer
      and "Other Answers".

Quirks of the official codes, kept by ``official=True`` (the default); ``official=False`` mends them:
    - `parse_multi_choice` guesses a letter at random where it finds none; "A " and "A." match at the end of words
      ("NASA "), and of several such letters the last one with blanks around it wins, or the first.
    - `parse_open` lowers the case before it splits at capital letters, so it never splits into sentences; numbers with
      thousands and decimals fall apart (1,234.5 -> 1234 and 234.5), and exponents are numbers too (1e3 -> 1000 and 3).
    - lmms-eval compares open answers letter by letter with the first of the parsed ones, so that no open question is
      ever right.
    - VLMEvalKit takes an open question whose answer is a capital letter for a multiple-choice one: with answer "B",
      "Other Answers" is right.
"""

import random
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from unipic2_evals.checks import as_field, as_mapping, as_number, as_rows, as_text
from unipic2_evals.mmbench import Option, can_infer

__all__ = [
    "SubjectScore",
    "Variant",
    "answer_correct",
    "eval_multi_choice",
    "eval_open",
    "evaluate",
    "instance_level_accuracy",
    "parse_multi_choice",
    "parse_open",
]

GUESS_SEED = 42
"""Seed of the official evaluation, from whose generator the guesses of a run are drawn one after the other."""
MAX_SHORT_REPLY = 5
"""Replies of at most so many words are not searched for the text of an option."""
INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
"""What stands before an answer; in the last sentence, an equals sign too."""
TRIVIAL = frozenset(":,.!?;'")

Variant = Literal["lmms_eval", "vlmevalkit"]
Parsed = str | float


class SubjectScore(TypedDict):
    """Accuracy of one subject."""

    acc: float
    num_example: int


def parse_multi_choice(
    response: str, options: Sequence[str], rng: random.Random | None = None, official: bool = True
) -> Option:
    """Return the option that a reply means.

    Looked for in this order: letters like "(A)", then "A ", then "A.", then (in replies of more than five words) the
    texts of the options. Of several, the one that is mentioned last.

    Args:
        response: The model's reply.
        options: Texts of the options A, B, ... in order.
        rng: Where guesses are drawn from; one generator for a whole run, as the official code does. None = a new one
            with the official seed.
        official: True guesses where nothing is found. False takes a letter only if it stands alone, and does not guess.

    Returns:
        The letter; unofficially False if the reply names no option.

    Raises:
        ValueError: If the reply is no text, or there are no options or more than 26.
    """
    texts = dict(zip(string.ascii_uppercase, _options(options), strict=False))
    reply = as_text(response, "response")
    for mark in ",.!?;:'":
        reply = reply.strip(mark)
    reply = f" {reply} "
    found = _bracketed(reply, texts) or (_letters if official else _whole_letters)(reply, texts)
    if not found and len(reply.split()) > MAX_SHORT_REPLY:
        found = _mentioned(texts, lambda text: reply.lower().rfind(text.lower()))
    if found:
        return max(found, key=lambda letter: found[letter])  # the first of several at the same place
    if official:
        return (rng or random.Random(GUESS_SEED)).choice(list(texts))
    return False


def parse_open(response: str, official: bool = True) -> list[Parsed]:
    """Return what may be the answer in a reply to an open question.

    Of every line, the shortest text that follows an indicator like "is " or "answer " (the whole reply if there is
    none), and every number in those; numbers are rounded to two decimals, texts in lower case. A single character is
    returned with a blank before and one with a blank after, so that it does not match within words.

    Args:
        response: The model's reply.
        official: True does not split lines into sentences, and reads parts of numbers as numbers of their own. False
            does the one and not the other.

    Returns:
        Texts and numbers without duplicates, in order of appearance (the official order is undefined).

    Raises:
        ValueError: If the reply is no text.
    """
    reply = as_text(response, "response").strip().strip(".")
    sentences = re.split(r"\n" if official else r"\.\s(?=[A-Z])|\n", reply)
    keys = [key for number, line in enumerate(sentences) if (key := _key(line.lower(), number == len(sentences) - 1))]
    keys = keys or [reply.lower()]
    parts = [*keys, *(number for key in keys for number in _numbers(key, official))]
    return list(dict.fromkeys(value for part in parts for value in _normalized(part)))


def eval_multi_choice(gold: str | Sequence[str], parsed: Option) -> bool:
    """Tell whether a letter is the right one, or one of the right ones."""
    return parsed == gold if isinstance(gold, str) else parsed in list(gold)


def eval_open(gold: str | Sequence[str], parsed: Sequence[Parsed]) -> bool:
    """Tell whether an open question is answered right.

    Args:
        gold: The right answer, or several.
        parsed: What `parse_open` returns.

    Returns:
        True if a parsed number equals a right one to two decimals, or a parsed text contains a right one.

    Raises:
        ValueError: If a right answer is no text.
    """
    golds = [gold] if isinstance(gold, str) else as_rows(gold, "gold")
    right = [value for answer in golds for value in _normalized(as_text(answer, "gold"))]
    texts = [value for value in right if isinstance(value, str)]
    return any(any(text in value for text in texts) if isinstance(value, str) else value in right for value in parsed)


def answer_correct(
    question: Mapping[str, Any],
    variant: Variant = "lmms_eval",
    rng: random.Random | None = None,
    official: bool = True,
) -> bool:
    """Tell whether one question is answered right.

    Args:
        question: ``question_type`` ("multiple-choice" or "open"), ``answer`` (a letter; for open questions a text or
            several), ``options`` (texts; for multiple choice) and ``response`` (the model's reply).
        variant: Whose rules.
        rng: See `parse_multi_choice`.
        official: See the top of this module.

    Returns:
        Whether it counts as right.

    Raises:
        ValueError: If the variant or the question's type is unknown, or a field is missing or malformed.
    """
    kind = as_field(question, "question_type", "question")
    answer, response = (as_field(question, key, "question") for key in ("answer", "response"))
    if kind not in {"multiple-choice", "open"} or variant not in {"lmms_eval", "vlmevalkit"}:
        message = "expected question_type 'multiple-choice' or 'open' and variant 'lmms_eval' or 'vlmevalkit', "
        raise ValueError(message + f"got {kind!r} and {variant!r}")
    if kind == "multiple-choice":
        options = _options(as_field(question, "options", "question"))
        if variant == "lmms_eval":
            return eval_multi_choice(answer, parse_multi_choice(response, options, rng, official))
        choices = dict(zip(string.ascii_uppercase, options, strict=False))
        return eval_multi_choice(answer, can_infer(response, choices, official))
    if variant == "lmms_eval":
        parsed = parse_open(response, official)
        return eval_open(answer, list(str(parsed[0])) if official else parsed)
    return _two_way(answer, response, official)


def evaluate(
    questions: Sequence[Mapping[str, Any]], variant: Variant = "lmms_eval", official: bool = True
) -> dict[str, SubjectScore]:
    """Return the accuracy of each subject; `instance_level_accuracy` sums them up.

    Args:
        questions: What `answer_correct` takes, with the ``id`` of the dataset, for example ``validation_Art_1``.
        variant: Whose rules.
        official: See the top of this module. Guesses are drawn from one generator in the order of the questions.

    Returns:
        Scores by subject, in order of first appearance.

    Raises:
        ValueError: If there are no questions, or one is malformed.
    """
    rng = random.Random(GUESS_SEED)
    by_subject: dict[str, list[bool]] = {}
    for number, question in enumerate(as_rows(questions, "questions")):
        name = as_text(as_field(question, "id", f"question {number}"), f"id of question {number}")
        subject = re.fullmatch(r"[^_]*_(.+)_\d+", name)
        if not subject:
            message = f"id of question {number}: expected SPLIT_SUBJECT_NUMBER, got {name!r}"
            raise ValueError(message)
        by_subject.setdefault(subject[1], []).append(answer_correct(question, variant, rng, official))
    return {
        subject: {"acc": sum(verdicts) / len(verdicts), "num_example": len(verdicts)}
        for subject, verdicts in by_subject.items()
    }


def instance_level_accuracy(results: Mapping[str, Mapping[str, float]]) -> float:
    """Return the accuracy over all questions, from that of each subject.

    Args:
        results: ``{"acc", "num_example"}`` by subject.

    Returns:
        The mean of ``acc`` weighted by ``num_example``; 0 without questions.

    Raises:
        ValueError: If a value is missing or no number.
    """
    pairs = [
        tuple(as_number(as_field(score, key, subject), f"{key} of {subject}") for key in ("acc", "num_example"))
        for subject, score in as_mapping(results, "results").items()
    ]
    total = sum(count for _, count in pairs)
    return sum(accuracy * count for accuracy, count in pairs) / total if total else 0


def _options(options: object) -> list[str]:
    if isinstance(options, str):
        message = f"options: expected a list; the dataset stores it as text, read it with ast.literal_eval: {options!r}"
        raise ValueError(message)
    texts = [str(text) for text in as_rows(options, "options")]
    if len(texts) > len(string.ascii_uppercase):
        message = f"options: expected at most {len(string.ascii_uppercase)}, got {len(texts)}"
        raise ValueError(message)
    return texts


def _mentioned(texts: Mapping[str, str], place: Callable[[str], int]) -> dict[str, int]:
    return {letter: at for letter, text in texts.items() if (at := place(text)) >= 0}


def _bracketed(reply: str, texts: Mapping[str, str]) -> dict[str, int]:
    return _mentioned({letter: f"({letter})" for letter in texts}, reply.rfind)


def _letters(reply: str, texts: Mapping[str, str]) -> dict[str, int]:
    """Return where letters stand alone, -1 for those that only end a word."""
    for end in (" ", "."):
        found = {letter: reply.rfind(f" {letter} ") for letter in texts if f"{letter}{end}" in reply}
        if found:
            return found
    return {}


def _whole_letters(reply: str, texts: Mapping[str, str]) -> dict[str, int]:
    places = {match[0]: match.start() for match in re.finditer(r"(?<![\w'])[A-Z](?![\w'])", reply)}
    return {letter: places[letter] for letter in texts if letter in places}


def _key(line: str, last: bool) -> str | None:
    """Return the shortest text after an indicator, if it is more than punctuation."""
    indicators = (*INDICATORS, "=") if last else INDICATORS
    tails = [line.split(indicator)[-1].strip() for indicator in indicators if indicator in line]
    shortest = ""
    for tail in tails:
        if not shortest or len(tail) < len(shortest):
            shortest = tail
    return shortest if shortest and shortest not in TRIVIAL else None


def _numbers(text: str, official: bool) -> list[str]:
    thousands = r"-?\b\d{1,3}(?:,\d{3})+\b" if official else r"-?\b\d{1,3}(?:,\d{3})+(?:\.\d+)?\b"
    scientific = r"-?\d+(?:\.\d+)?[eE][+-]?\d+"
    plain = r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"
    found = []
    for pattern in (thousands, scientific, plain):
        found += re.findall(pattern, text)
        text = text if official else re.sub(pattern, " ", text)
    return found


def _normalized(text: str) -> list[Parsed]:
    stripped = text.strip()
    try:
        return [round(float(stripped.replace(",", "")), 2)]
    except ValueError:
        lowered = stripped.lower()
    return [f" {lowered}", f"{lowered} "] if len(lowered) == 1 else [lowered]


def _two_way(answer: str | Sequence[str], response: str, official: bool) -> bool:
    """Score an open question as a choice between its answer and anything else."""
    golds = [str(answer)] if official or isinstance(answer, str) else as_rows(answer, "answer")
    right = golds[0] if official and golds[0] in list(string.ascii_uppercase) else "A"
    choices = ({"A": str(gold), "B": "Other Answers"} for gold in golds)
    return any(can_infer(response, pair, official) == right for pair in choices)
