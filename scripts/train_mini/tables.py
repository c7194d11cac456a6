"""The evaluation's figures, as Markdown tables."""

from collections.abc import Iterable, Sequence
from typing import Any

Figures = dict[str, Any]
"""What mini.json holds, or a part of it."""

_SHOWN = 600
"""Characters of a sample; a page that repeats itself goes on for thousands."""

_GENERATED = (
    "pages",
    "characters a vision token",
    "type, px",
    "CER, %",
    "95 %",
    "mean of pages",
    "WER, %",
    "precision, %",
    "wrong image",
    "blank image",
    "reading",
    "repetition, %",
)


def report(figures: Figures) -> str:
    """All tables, as the generated part of mini.md."""
    return "\n".join(
        [
            *_conditions(figures["conditions"]),
            *_generated(figures),
            *_real(figures),
            *_examples(figures["examples_detail"]),
            *_compression(figures["compression"]),
            *_samples(figures["samples"]),
        ]
    )


def percent(share: float | None) -> str:
    """A share in per cent, one decimal; a dash for none."""
    # Adding 0 turns -0.0 into 0.0.
    return "–" if share is None else f"{round(100 * share, 1) + 0:.1f}"


def verdict(row: Figures) -> str:
    """Whether a group was read, and by how much the error is below the better control's."""
    points = percent(row["reading"])
    return f"yes, {points}" if row["is_reading"] else f"**not reading**, {points}"


def _conditions(conditions: Figures) -> list[str]:
    seconds = ", ".join(
        f"{step} {part['pages']} in {part['seconds']:.0f} s"
        for step, part in conditions["converted"].items()
    )
    limit = conditions["max_tokens"]
    faces = conditions["faces"]
    lines = [
        "## Conditions",
        "",
        f"- Model `{conditions['model']}`, revision `{conditions['revision']}`, "
        f"{conditions['dtype']} on {conditions['device']}; docr {conditions['docr']}, "
        f"torch {conditions['torch']}, PyMuPDF {conditions['pymupdf']}.",
        f"- Free-running greedy decoding by `docr convert --task {conditions['task']}`, "
        + ("its own limits" if limit is None else f"at most {limit} tokens a page")
        + "; scored is the Markdown in the page records.",
        f"- Seed `{conditions['seed']}`, {faces['held-out']} held-out and {faces['training']} "
        f"training faces, {conditions['held_out_sentences']} sentences that training never saw. "
        "All generated pages have held-out text.",
        f"- Pages converted, blank ones and loading included: {seconds}.",
    ]
    if conditions["quick"]:
        lines.append("- **A quick run**: too few pages, but of large type, to conclude from.")
    return [*lines, "", *_LEGEND, ""]


_LEGEND = (
    "CER and WER are edits over the length of the truth, white space collapsed, marks of headings "
    "and lists counted, summed over the pages of a row; *mean of pages* is the mean of the pages' "
    "own CER; neither is clipped. *95 %*: the CER's interval over 1,000 resamplings of the pages. "
    "*Precision* is 1 - CER of a page, at least 0, averaged. *Wrong image*: the same truths "
    "against the output for the next page of the same group. *Blank image*: against the output "
    "for a white page of the same shape. *Reading*: by how many points of CER the page is better "
    "than the better of the two; below 40 the row is not reading. *Repetition*: pages recorded as "
    "repetition or truncated. *Type*: the median size of the running text in the view, in px.",
)


def _generated(figures: Figures) -> list[str]:
    lines = []
    for mode in dict.fromkeys(row["mode"] for row in figures["generated"]):
        rows = [row for row in figures["generated"] if row["mode"] == mode]
        for table, heading, label in _TABLES:
            chosen = [row for row in rows if row["table"] == table]
            cells = [[label(row), *_generated_cells(row)] for row in chosen]
            lines += [f"## {heading}: mode {mode}", "", *_table(["", *_GENERATED], cells), ""]
    return lines


def _faces_and_density(row: Figures) -> str:
    return f"{row['faces']} faces, {_density(row)}"


def _content_and_density(row: Figures) -> str:
    return f"{row['content']}, {_density(row)}"


def _density(row: Figures) -> str:
    low, high = row["density"]
    return "all" if row["pooled"] else f"{low} to {high}"


_TABLES = (
    ("large", "Large type", _faces_and_density),
    ("density", "By density", _faces_and_density),
    ("content", "By content, held-out faces", _content_and_density),
)


def _generated_cells(row: Figures) -> list[str]:
    failed = f" ({row['failed']} failed)" if row["failed"] else ""
    return [
        f"{row['pages']}{failed}",
        f"{row['density_mean']:.1f}",
        f"{row['em_px']:.0f}",
        percent(row["cer"]),
        f"{percent(row['cer_low'])} to {percent(row['cer_high'])}",
        percent(row["cer_mean"]),
        percent(row["wer"]),
        percent(row["precision"]),
        percent(row["wrong"]),
        percent(row["blank"]),
        verdict(row),
        percent(row["repetition"]),
    ]


def _real(figures: Figures) -> list[str]:
    lines = ["## Real pages", ""]
    if figures["real"] is None:
        return [*lines, "Left out: the corpus was not there.", ""]
    head = (
        "mode", "pages", "words F1", "of wrong", "characters F1", "of wrong", "CER", "wrong image",
        "blank image", "reading", "large type found", "of wrong", "repetition",
    )  # fmt: skip
    rows = []
    for mode, part in figures["real"].items():
        total, bags = part["total"], part["bags"]
        rows.append(
            [
                mode,
                str(total["pages"]),
                percent(bags["words_f1"]),
                percent(bags["words_f1_wrong"]),
                percent(bags["characters_f1"]),
                percent(bags["characters_f1_wrong"]),
                percent(total["cer"]),
                percent(total["wrong"]),
                percent(total["blank"]),
                verdict(total),
                percent(bags["large_recall"]),
                percent(bags["large_recall_wrong"]),
                percent(total["repetition"]),
            ]
        )
    large = next(iter(figures["real"].values()))["bags"]["large_characters"]
    return [
        *lines,
        "Pages of public documents with a known text layer, dense ones mostly; all figures in %. "
        "Multisets of words and of characters first, as they do not depend on the order of "
        "reading: the columns *of wrong* say what another page's output gets; the blank page is a "
        "white A4. Marks of headings "
        "and bullets are taken off both sides. *Large type found*: characters of lines set in 20 "
        f"points or more ({large} in all) that stand in the best-fitting place of the output.",
        "",
        *_table(head, rows),
        "",
    ]


def _examples(rows: Sequence[Figures]) -> list[str]:
    head = ("page", "characters", "CER, %", "wrong image", "blank image", "words F1", "state")
    cells = [
        [
            row["page"],
            str(row["characters"]),
            percent(row["cer"]),
            percent(row["wrong"]),
            percent(row["blank"]),
            percent(row["words_f1"]),
            row["state"],
        ]
        for row in rows
    ]
    return [
        "## The examples",
        "",
        "The pages under `examples/` that have a text layer, which is the truth, without marks of "
        "headings and bullets.",
        "",
        *_table(head, cells),
        "",
    ]


def _compression(compression: Figures) -> list[str]:
    head = (
        "content", "pages", "text tokens a vision token", "characters a vision token",
        "characters a text token", "type, px", "precision, %", "of wrong image",
    )  # fmt: skip
    cells = [
        [
            bucket["content"],
            str(bucket["pages"]),
            f"{bucket['compression']:.2f}",
            f"{bucket['characters_per_vision_token']:.2f}",
            f"{bucket['characters_per_token']:.2f}",
            f"{bucket['em_px']:.0f}",
            percent(bucket["precision"]),
            percent(bucket["wrong"]),
        ]
        for bucket in compression["buckets"]
    ]
    paper = [
        [tokens, f"{x:.1f}", percent(precision)]
        for tokens, points in compression["paper"].items()
        for x, precision in points
    ]
    return [
        "## Precision against compression",
        "",
        "![Precision against compression](precision.svg)",
        "",
        f"Pages of one content in held-out faces, mode {compression['mode']}. The model writes "
        "characters; counted are text tokens of a byte-level BPE of "
        f"{compression['bpe_entries']} entries, trained on the training prose: "
        f"{compression['characters_per_token']:.2f} characters a token on held-out prose. The "
        "paper counts tokens of its own, larger vocabulary, which makes fewer of the same text. "
        "More text on a page is also smaller type: the figures do not tell the two apart.",
        "",
        *_table(head, cells),
        "",
        "The paper's figures (DeepSeek-OCR, table 2: 100 English pages of Fox). Other pages and a "
        "far larger model: a shape to compare with, not a rival.",
        "",
        *_table(("vision tokens", "text tokens a vision token", "precision, %"), paper),
        "",
    ]


def _samples(samples: Sequence[Figures]) -> list[str]:
    lines = [
        "## What it writes",
        "",
        "Large type in held-out faces: the best page, the median one and the worst.",
        "",
    ]
    for sample in samples:
        lines += [f"CER {percent(sample['cer'])} %, truth and output:", ""]
        for text in (sample["truth"], sample["output"]):
            shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"
            # Indented rather than fenced: no text can end such a block.
            lines += [*(f"    {line}".rstrip() for line in shown.splitlines()), "", "<!-- -->", ""]
    return lines


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    return [
        _row(head),
        "|" + "---|" * len(head),
        *(_row(cell.replace("|", "\\|") for cell in row) for row in rows),
    ]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
