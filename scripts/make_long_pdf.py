"""Write a long PDF with its own words on every page, for tests of memory, resume and long runs.

    python scripts/make_long_pdf.py OUT.pdf --pages 2000

The same arguments give the same bytes. Words are drawn by the page's number, so that no two pages
look alike and a page in the wrong place is noticed.
"""

import argparse
import random
from pathlib import Path

import pymupdf

WORDS = """
anchor apple autumn barley basket beacon bridge candle carpet cellar chapel cotton dagger engine
feather fiddle forest garden glacier granite hammer harbour hazel island jacket kettle lantern
ledger linen marble meadow mirror needle orchard oyster paddle pepper pillar quarry ribbon saddle
salmon scarlet shutter silver spindle stable summer tablet thimble timber tunnel valley velvet
walnut willow winter
"""


def make_long_pdf(path: Path, *, pages: int) -> None:
    """Write a PDF of `pages` A5 pages to `path`."""
    words = WORDS.split()
    document = pymupdf.open()
    for number in range(1, pages + 1):
        choose = random.Random(number)
        lines = [" ".join(choose.choices(words, k=7)).capitalize() + "." for _ in range(12)]
        page = document.new_page(width=420, height=595)
        page.insert_text(
            (50, 60),
            [f"Page {number} of {pages}", "", *lines],
            fontname="tiro",
            fontsize=12,
            lineheight=1.6,
        )
    document.save(path, deflate=True, no_new_id=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="where to write the PDF")
    parser.add_argument("--pages", type=int, default=2000, help="number of pages (default: 2000)")
    arguments = parser.parse_args()
    if arguments.pages < 1:
        parser.error("--pages is 1 or more")
    make_long_pdf(arguments.out, pages=arguments.pages)


if __name__ == "__main__":
    main()
