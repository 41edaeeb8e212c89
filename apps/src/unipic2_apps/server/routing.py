"""What a chat asks for: an answer in words, a picture, or an edit.

A client that names one modality has said it. For others the first words of the last message decide, by lists and
nothing else, so that the same words always mean the same: a request to draw or to edit begins with its verb, in English
or Chinese, perhaps after "please" or "can you". What the lists do not know is a question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Choice", "asks_for", "choose"]

Wish = Literal["text", "generate", "edit"]


@dataclass(frozen=True)
class Choice:
    """What a request is taken for."""

    task: Wish
    because: str
    """Why, for people."""
    picture: int | None = None
    """The message whose picture is edited."""

    def facts(self) -> dict[str, str]:
        """Return it for a response, with what to do about it."""
        other = "text" if self.task != "text" else "image"
        return {"task": self.task, "because": self.because, "otherwise": f'send modalities: ["{other}"]'}


_OPENING = re.compile(
    r"(?:(?:please|kindly|now|then|next|and|so|ok|okay|hey|hi|hello|just|also|first|finally|instead|"
    r"(?P<asked>can|could|would|will) (?:you|we)|i(?:'d| would) like you to|i want you to|let's)\b[\s,.:;!-]*)+"
)
_ONE = r"(?:an?|some|another|one|two|three|four|several|\d+)"
_PICTURE = (
    r"(?:images?|pictures?|pics?|photos?|photographs?|drawings?|paintings?|illustrations?|sketch(?:es)?|logos?|posters?|"
    r"icons?|portraits?|wallpapers?|artworks?|cartoons?|stickers?|watercolou?rs?|avatars?|banners?|renderings?)(?![\w'])"
)
_SMALL = r"(?:of|in|on|from|for|about|with|to|the|this|that|these|those|my|your|his|her|its|their|it)"
_THING = r"(?:it|this|that|these|those|them|him|her|the|his|its|their|my|everything|everyone|each|every|all|both)"
# "make me a small picture", but neither "make the picture brighter" nor "make a list of pictures" or "an image title".
_DRAW = re.compile(
    r"(?:draw|paint|sketch|doodle) (?!(?:an?|any|the|your|some)? ?(?:conclusion|comparison|parallel|distinction|"
    r"inference|attention)s?\b)\S"
    r"|(?:(?:generate|create|make|produce|design|render|illustrate|depict|visuali[sz]e|compose|show|give|send|imagine|"
    rf"i want|i need|i(?:'d| would) like) (?:me |us )?(?:{_ONE} )?|{_ONE} (?:more )?)"
    rf"(?:(?!{_SMALL}\b)[\w'-]+,? ){{0,4}}?{_PICTURE}(?! (?:description|caption|prompt|title|tag|name|file)s?\b)"
)
_EDIT = re.compile(
    r"(?:add|insert|put|place|remove|delete|erase|crop|replace|swap|exchange|substitute|change|alter|modify|edit|adjust|"
    r"turn|convert|transform|transfer|recolou?r|colou?r|colori[sz]e|tint|blur|sharpen|brighten|lighten|darken|"
    r"rotate|flip|mirror|move|shift|raise|lower|lift|extend|expand|enlarge|shrink|resize|zoom|restore|retouch|enhance|"
    r"increase|decrease|reduce|intensify|soften|smooth|styli[sz]e|restyle|cover|fill|dress|wrap|decorate|cut|isolate|"
    r"extract|clean|clear|hide|open|close|light|set|keep|redraw) (?!(?:of|is|are|was|were|or|and|up)\b)\S"
    rf"|(?:make|have|let|give) {_THING}\b|get rid of \S"
)
# With a picture before, these add to it instead of making another.
_DRAW_ON = re.compile(
    rf"paint {_THING}\b|(?:draw|paint|sketch|doodle) .*\bon(?:to)? (?:it|him|her|them|his|its|their)\b"
)
# What comes out is words: "extract the text", "convert the table to markdown".
_WORDS = re.compile(
    r"extract (?:all )?(?:of )?(?:the |any )?(?:text|words?|numbers?|data|information|names?)\b"
    r"|(?:convert|turn|transform|put) .*\b(?:in)?to (?:an? |the |plain |valid )*"
    r"(?:markdown|json|csv|yaml|xml|html|latex|code|words|text|prose|(?:bullet(?:ed)? )?list|table|sentences?|bullet "
    r"points)\b"
)
# Please, help me, for me, can you, may I trouble you, I want you to, now, then.
_OPENING_ZH = re.compile(
    "(?:\u8bf7|\u5e2e\u6211|\u7ed9\u6211|\u4e3a\u6211|\u4f60\u80fd|\u80fd\u5426|\u80fd\u4e0d\u80fd|\u53ef\u4ee5|"
    "\u9ebb\u70e6\u4f60?|\u6211\u60f3\u8ba9\u4f60|\u6211\u60f3\u8981\u4f60|\u73b0\u5728|\u7136\u540e|\\s|\uff0c)+"
)
# To draw (but not "in the painting ..."); to generate, make, design or create a picture, photograph, poster or logo.
_DRAW_ZH = re.compile(
    "\u753b(?![\u4e2d\u91cc\u9762\u4e0a\u7684\u662f])\\S|\u7ed8\u5236\\S"
    "|(?:\u751f\u6210|\u5236\u4f5c|\u8bbe\u8ba1|\u521b\u4f5c|\u505a|\u521b\u5efa).{0,40}"
    "(?:\u56fe|\u7167\u7247|\u753b|\u6d77\u62a5|\u6807\u5fd7)"
)
# The particles ba and jiang before an object; to add, remove, delete, erase, replace, change, turn into, adjust, let.
_EDIT_ZH = re.compile(
    "(?:\u628a|\u5c06|\u6dfb\u52a0|\u52a0\u4e0a|\u52a0\u5165|\u589e\u52a0|\u53bb\u6389|\u53bb\u9664|\u79fb\u9664|"
    "\u5220\u9664|\u5220\u6389|\u64e6\u9664|\u66ff\u6362|\u6362\u6210|\u66f4\u6362|\u6539\u53d8|\u6539\u6210|\u53d8\u6210|"
    "\u66f4\u6539|\u4fee\u6539|\u8c03\u6574|\u8ba9|\u4f7f)\\S"
)
_LONGEST = 400


def asks_for(text: str, *, with_picture: bool) -> Wish:
    """Tell what words ask for.

    Args:
        text: The last message.
        with_picture: There is a picture that they could be about, in this message or before.
    """
    words = " ".join(text.split())[:_LONGEST].lower().replace("\u2019", "'")
    opening = _OPENING.match(words)
    is_request = opening is not None and opening["asked"] is not None
    words = words[opening.end() :] if opening else words
    opening = _OPENING_ZH.match(words)
    words = words[opening.end() :] if opening else words
    if _WORDS.match(words) or (words.endswith("?") and not is_request):
        return "text"
    if with_picture and (_DRAW_ON.match(words) or _EDIT.match(words) or _EDIT_ZH.match(words)):
        return "edit"
    return "generate" if _DRAW.match(words) or _DRAW_ZH.match(words) else "text"


def choose(text: str, pictures: Sequence[int], modalities: Sequence[str] | None) -> Choice:
    """Tell what a chat asks for.

    Args:
        text: The words of the last message.
        pictures: How many pictures each message has.
        modalities: What the client wants back; both, or nothing said, leaves it to the words.
    """
    wanted = set(modalities or ("text", "image"))
    if wanted == {"text"}:
        return Choice("text", "modalities ask for text alone")
    last = len(pictures) - 1
    holder = next((index for index in range(last, -1, -1) if pictures[index]), None)
    wish = asks_for(text, with_picture=holder is not None)
    if wish == "text" and wanted != {"image"}:
        return Choice("text", "the last message does not begin with words that ask to draw or to edit")
    why = "modalities ask for a picture" if wanted == {"image"} else "the last message begins with a request for it"
    if holder is not None and (holder == last or wish == "edit"):
        return Choice("edit", f"{why}, and the last picture is in messages[{holder}]", holder)
    return Choice("generate", why)
