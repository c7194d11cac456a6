"""Joining a document's pages into one Markdown file.

Each page begins with an HTML comment on a line of its own, which renderers do not show:

    <!-- page 1 -->

    # Title …

    <!-- page 2: blank -->

    <!-- page 3: failed:page-timeout -->

Pages that are not simply "ok" name their state, so that a gap can be seen in the text, too. The
text of a page stands unchanged; outside fenced code it holds no such comment of its own. Links to
figures hold, because document.md lies in the folder of the pages.
"""

from collections.abc import Iterable, Iterator


def joined(pages: Iterable[tuple[int, str, str | None]]) -> Iterator[str]:
    """The pieces of document.md, one a page, from (1-based number, state, Markdown or None).

    The Markdown ends in a newline, as that of records does.
    """
    separator = ""
    for number, state, markdown in pages:
        comment = f"page {number}" if state == "ok" else f"page {number}: {state}"
        body = f"\n{markdown}" if markdown else ""
        yield f"{separator}<!-- {comment} -->\n{body}"
        separator = "\n"
