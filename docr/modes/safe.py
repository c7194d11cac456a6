r"""Model text as Markdown that only shows: no HTML but tables, no link, no image.

A page can make the model write anything, and whoever opens the Markdown runs what is in it. So
what a renderer would act on is spelled to show the same and do nothing:

    <script>, <a href=…>, <!-- … -->     &lt;script>, …: any HTML but tables
    <https://example.com>, <me@a.org>    &lt;https://…: addresses in angle brackets
    [text](target), ![text](target)      [text] (target)
    [label]: target                      [label] : target, where a line begins so

Of HTML there stay table, thead, tbody, tr, td and th, with the attributes colspan and rowspan and
numbers as their values. In formulas, and in code within a line, where &lt; would not be read as <,
a space follows the < instead.

Fenced code stays as it is if its fences stand at the margin, so that every renderer sees code: a
blank line is put before it where none is, and a last fence where there is none. Other lines that
could open a fence get a backslash, or what follows them would change sides.

All else stays, and so does what went through here before. A bare address (https://… in the text)
is text; some viewers make a link of it by themselves.
"""

import re

_TAG = (
    r"(?P<tag></?+(?:table|thead|tbody|tr|td|th)"
    r"(?:[ \t]++(?:col|row)span=(?:\"[0-9]{1,4}\"|'[0-9]{1,4}'|[0-9]{1,4}+))*+"
    r"[ \t]*+/?+>)"
)
_ANGLE = r"(?<!\\)(?P<backslashes>\\*+)<(?=[a-z/!?]|[\w.!#$%&'*+/=?^`{|}~-]++@)"
"""What a tag, a comment or an address begins with, and the backslashes before it."""

_QUOTED = (
    r"(?P<quoted>\$\$[^$]++\$\$|\$[^$\n]++\$"
    r"|\\\((?:[^\\]|\\[^()])*+\\\)|\\\[(?:[^\\]|\\[^\[\]])*+\\\]"
    r"|(?<!`)(?P<ticks>`++)[^`\n]++(?P=ticks)(?!`))"
)
"""A formula, or code within a line. Only how a < is spelled there depends on it."""

_CONTAINERS = r"^[ \t>*+\-0-9.):]*+"
"""What may stand before a line's own text: indentation, quotes, bullets and numbers."""

_FLAGS = re.ASCII | re.IGNORECASE | re.MULTILINE
_IN_TEXT = re.compile(f"{_TAG}|{_QUOTED}|{_ANGLE}", _FLAGS)
_IN_QUOTED = re.compile(f"{_TAG}|{_ANGLE}", _FLAGS)
_BEGINS_HTML = re.compile(rf"{_CONTAINERS}\\*+<[a-z/!?]", _FLAGS)
_BEGINS_FENCE = re.compile(rf"({_CONTAINERS})(?=`{{3,}}+[^`\n]*+$|~~~)", _FLAGS)
_BEGINS = re.compile(_CONTAINERS)
_BRACKET = re.compile(r"(?<!\\)\[|\](?=:)")
_BLANK_LINES = re.compile(r"(\n(?:[ \t]*+\n)++)")

_OPENING_FENCE = re.compile(r"(`{3,}|~{3,})[\w+#.-]*[ \t]*")
_CLOSING_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*")


def safe_markdown(text: str) -> str:
    """Spell one block's Markdown so that it shows what it says and does nothing; see above.

    Args:
        text: lines that end in a newline only, without control characters. What joins blocks
            must put a blank line between them.
    """
    pieces: list[str] = []
    prose: list[str] = []
    fence = ""
    for line in text.split("\n"):
        if fence:
            pieces.append(line)
            closing = _CLOSING_FENCE.fullmatch(line)
            if closing and closing[1].startswith(fence):
                fence = ""
        elif opening := _OPENING_FENCE.fullmatch(line):
            if prose and prose[-1].strip(" \t"):
                prose.append("")  # HTML, such as a table, could go on over the fence
            if prose:
                pieces.append(_safe_prose("\n".join(prose)))
                prose.clear()
            pieces.append(line)
            fence = opening[1]
        else:
            prose.append(line)
    if prose:
        pieces.append(_safe_prose("\n".join(prose)))
    if fence:
        pieces.append(fence)
    return "\n".join(pieces)


def _safe_prose(text: str) -> str:
    """Lines outside fenced code."""
    text = _BEGINS_FENCE.sub(r"\1\\", text)
    text = text.replace("](", "] (")
    if "]:" in text:
        text = "\n".join(_without_definition(line) for line in text.split("\n"))
    if "<" in text:
        text = "".join(_without_html(piece) for piece in _BLANK_LINES.split(text))
    return text


def _without_definition(line: str) -> str:
    """A line that defines no target of links elsewhere: [label]: target.

    The label may have begun on an earlier line. It holds no bracket but behind a backslash.
    """
    begin = _BEGINS.match(line)
    assert begin is not None, line
    opening: int | None = None
    pieces, start = [], 0
    for bracket in _BRACKET.finditer(line):
        if bracket[0] == "[":
            opening = bracket.start()
        elif opening is None or opening <= begin.end():
            pieces += [line[start : bracket.end()], " "]
            start = bracket.end()
    return "".join([*pieces, line[start:]])


def _without_html(text: str) -> str:
    """Text without a blank line, in which no HTML but tables is left."""
    if ">" not in text and not _BEGINS_HTML.search(text):
        return text  # no tag comes to an end, and none need not: a < b, $a<b$
    return _IN_TEXT.sub(_spelled, text)


def _spelled(match: re.Match[str]) -> str:
    if match["tag"]:
        return match["tag"]
    if match["quoted"]:
        return _IN_QUOTED.sub(_spaced, match["quoted"])
    backslashes = match["backslashes"]
    return backslashes[len(backslashes) % 2 :] + "&lt;"  # an odd one would escape the &


def _spaced(match: re.Match[str]) -> str:
    return match[0] if match["tag"] else f"{match[0]} "
