"""Pages that were not made for this model: public documents with known text, and the examples."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymupdf

from scripts.train_mini.score import (
    Distance,
    Reading,
    Summary,
    bag_f1,
    collapse,
    found,
    score_pages,
    summarise,
    without_marks,
)

LARGE_PT = 20.0
"""Type of this size and above counts as large: most headings."""


@dataclass(frozen=True, slots=True)
class RealPage:
    """A page with a text layer.

    Attributes:
        name: file and 1-based page number.
        document: name of the PDF to convert.
        index: of the page in `document`.
        truth: its text, a line for a line.
        large: its lines of large type.
    """

    name: str
    document: str
    index: int
    truth: str
    large: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BagScore:
    """Figures that do not depend on the order of reading, each beside the wrong page's.

    Attributes:
        words_f1, characters_f1: means over pages, of multisets; white space is no character.
        large_recall: share of the characters of large type that were found; None: there is none.
    """

    words_f1: float
    words_f1_wrong: float
    characters_f1: float
    characters_f1_wrong: float
    large_characters: int
    large_recall: float | None
    large_recall_wrong: float | None


def corpus_pages(corpus: Path, folder: Path) -> list[RealPage]:
    """The pages of a corpus's truth/TRUTH.tsv, each copied into a PDF of its own in `folder`."""
    pages = []
    with (corpus / "truth" / "TRUTH.tsv").open(encoding="utf-8", newline="") as table:
        for row in csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE):
            text_file = corpus / "truth" / row["text_file"]
            number = int(row["page_1based"])
            copy = folder / f"{text_file.stem}.pdf"
            with pymupdf.open(corpus / row["pdf"]) as document, pymupdf.open() as single:
                single.insert_pdf(document, from_page=number - 1, to_page=number - 1)
                single.save(copy)
                large = large_lines(document[number - 1])
            name = f"{Path(row['pdf']).name}#{number}"
            truth = text_file.read_text(encoding="utf-8")
            pages.append(RealPage(name, copy.name, 0, truth, large))
    return pages


def example_pages(folder: Path) -> list[RealPage]:
    """All pages of a folder's PDFs that have a text layer."""
    pages = []
    for path in sorted(folder.glob("*.pdf")):
        with pymupdf.open(path) as document:
            for index, page in enumerate(document):
                truth = page.get_text()
                if truth.strip():
                    name = f"{path.name}#{index + 1}"
                    pages.append(RealPage(name, path.name, index, truth, large_lines(page)))
    return pages


def large_lines(page: Any) -> tuple[str, ...]:
    """Lines of a PyMuPDF page, as far as they are set in large type."""
    lines = []
    for block in page.get_text("dict")["blocks"]:
        for line in block.get("lines", ()):
            spans = [span["text"] for span in line["spans"] if span["size"] >= LARGE_PT]
            if text := collapse("".join(spans)):
                lines.append(text)
    return tuple(lines)


def score_real(
    pages: Sequence[RealPage], readings: Sequence[Reading], blank: str
) -> tuple[Summary, BagScore, list[dict[str, Any]]]:
    """Compare real pages with their outputs; marks of Markdown are taken off both.

    Returns:
        All of them by edits, all of them by bags, and a row of figures for each.
    """
    plain = [reading._replace(text=without_marks(reading.text)) for reading in readings]
    truths = [without_marks(page.truth) for page in pages]
    scores = score_pages(truths, plain, [without_marks(blank)] * len(pages))
    rows = []
    for page, truth, reading, score in zip(pages, truths, plain, scores, strict=True):
        rows.append(
            {
                "page": page.name,
                "state": reading.state,
                "characters": score.characters.length,
                "cer": score.characters.rate,
                "wrong": score.wrong.rate,
                "blank": score.blank.rate,
                "words_f1": bag_f1(truth.split(), reading.text.split()),
                "characters_f1": bag_f1("".join(truth.split()), "".join(reading.text.split())),
            }
        )
    return summarise(scores), _bags(pages, truths, [reading.text for reading in plain]), rows


def _bags(pages: Sequence[RealPage], truths: Sequence[str], outputs: Sequence[str]) -> BagScore:
    others = [*outputs[1:], outputs[0]]
    lines = [[without_marks(line) for line in page.large] for page in pages]
    large, large_wrong = (
        _sum(found(wanted, text) for wanted, text in zip(lines, texts, strict=True))
        for texts in (outputs, others)
    )
    return BagScore(
        words_f1=_mean_f1([t.split() for t in truths], [o.split() for o in outputs]),
        words_f1_wrong=_mean_f1([t.split() for t in truths], [o.split() for o in others]),
        characters_f1=_mean_f1(_letters(truths), _letters(outputs)),
        characters_f1_wrong=_mean_f1(_letters(truths), _letters(others)),
        large_characters=large.length,
        large_recall=1 - large.rate if large.length else None,
        large_recall_wrong=1 - large_wrong.rate if large.length else None,
    )


def _letters(texts: Sequence[str]) -> list[str]:
    return ["".join(text.split()) for text in texts]


def _mean_f1(truths: Sequence[Sequence[str]], outputs: Sequence[Sequence[str]]) -> float:
    figures = [bag_f1(truth, output) for truth, output in zip(truths, outputs, strict=True)]
    return sum(figures) / len(figures)


def _sum(distances: Any) -> Distance:
    edits, lengths = zip(*distances, strict=True)
    return Distance(sum(edits), sum(lengths))
