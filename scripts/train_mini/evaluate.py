"""How well a trained mini reads, measured through the product.

    python -m scripts.train_mini.evaluate MODEL_DIR --out docs/measurements

Everything is converted by `docr convert` in a child process and scored from the page records; no
part of the training code runs the model. Writes OUT/mini.json, OUT/mini.md and OUT/precision.svg;
what stands above the marker line of an earlier mini.md is kept.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from docr import __version__
from docr.modes.mode import MODES, NO_TILES
from scripts.train_mini.chart import precision_chart
from scripts.train_mini.compression import (
    BPE_ENTRIES,
    PAPER,
    MeasuredPage,
    buckets,
    characters_per_token,
    count_tokens,
    curves,
    train_bpe,
)
from scripts.train_mini.convert import TASK, Reader, blank_text, reading_of, record_of
from scripts.train_mini.fonts import load_faces
from scripts.train_mini.realpages import RealPage, corpus_pages, example_pages, score_real
from scripts.train_mini.score import PageScore, Reading, score_pages, summarise
from scripts.train_mini.tables import report
from scripts.train_mini.testset import (
    SEED,
    EvalPage,
    Group,
    all_groups,
    make_group,
    write_blank_pages,
)
from scripts.train_mini.text import sentences

ROOT = Path(__file__).resolve().parents[2]
MARKER = "<!-- figures: written by scripts/train_mini/evaluate.py -->"
TITLE = "# The mini model, measured\n\n"

NATIVE = tuple(name for name, mode in MODES.items() if mode.tile_px is None)
"""Modes whose pages all have the same number of vision tokens, which densities are made for."""

BLANK = "blank.pdf"
A4 = (595.0, 842.0)


@dataclass(frozen=True, slots=True)
class ReadGroup:
    """A group of generated pages and how they were read; `out` holds the records."""

    group: Group
    mode: str
    out: Path
    pages: list[EvalPage]
    readings: list[Reading]
    scores: list[PageScore]

    @property
    def faces(self) -> str:
        return "held-out" if self.group.held_out_faces else "training"


def read_generated(reader: Reader, mode: str, fonts: Path, *, quick: bool) -> list[ReadGroup]:
    """Make the groups of a mode, have them read, compare them."""
    faces = {side: load_faces(fonts, held_out=side) for side in (True, False)}
    folder = reader.work / "generated" / mode
    folder.mkdir(parents=True)
    made = []
    for group in all_groups(quick=quick):
        pdf = folder / f"{group.name}.pdf"
        made.append((group, make_group(group, MODES[mode], faces[group.held_out_faces], pdf)))
    blank_pages = write_blank_pages(folder / BLANK)
    out = reader.convert(folder, mode)
    blank = {shape: blank_text(out, BLANK, index) for shape, index in blank_pages.items()}
    result = []
    for group, pages in made:
        readings = [reading_of(out, f"{group.name}.pdf", i) for i in range(len(pages))]
        truths = [page.truth for page in pages]
        scores = score_pages(truths, readings, [blank[page.shape] for page in pages])
        result.append(ReadGroup(group, mode, out, pages, readings, scores))
    return result


def generated_rows(groups: Sequence[ReadGroup]) -> list[dict[str, Any]]:
    """A row of figures for every group, and one for those that differ in density only."""
    rows = []
    alike: dict[tuple[str, str, str, str], list[ReadGroup]] = {}
    for read in groups:
        key = (read.mode, read.group.table, read.faces, read.group.content)
        alike.setdefault(key, []).append(read)
    for parts in alike.values():
        rows += [_row([part], pooled=False) for part in parts]
        if len(parts) > 1:
            rows.append(_row(parts, pooled=True))
    return rows


def _row(parts: Sequence[ReadGroup], *, pooled: bool) -> dict[str, Any]:
    first = parts[0]
    pages = [page for part in parts for page in part.pages]
    tokens = MODES[first.mode].paper_tokens(NO_TILES)
    return {
        "mode": first.mode,
        "table": first.group.table,
        "faces": first.faces,
        "content": first.group.content,
        "density": [first.group.density[0], parts[-1].group.density[1]],
        "pooled": pooled,
        "density_mean": sum(page.characters for page in pages) / len(pages) / tokens,
        "em_px": statistics.median(page.em_px for page in pages),
        **asdict(summarise([score for part in parts for score in part.scores])),
    }


def read_real(reader: Reader, folder: Path, pages: Sequence[RealPage], mode: str) -> dict[str, Any]:
    """Have the real pages of a folder read: figures of all, and of each."""
    blank_pages = write_blank_pages(folder / BLANK)
    out = reader.convert(folder, mode)
    readings = [reading_of(out, page.document, page.index) for page in pages]
    total, bags, rows = score_real(pages, readings, blank_text(out, BLANK, blank_pages[A4]))
    return {"total": asdict(total), "bags": asdict(bags), "pages": rows}


def compression_figures(groups: Iterable[ReadGroup], mode: str) -> tuple[dict[str, Any], str]:
    """The experiment's figures, and its chart."""
    bpe = train_bpe(sentences(held_out=False))
    tokens = MODES[mode].paper_tokens(NO_TILES)
    pages = [
        MeasuredPage(
            read.group.content,
            page.characters,
            count_tokens(bpe, page.truth),
            tokens,
            page.em_px,
            score,
        )
        for read in groups
        if read.group.table == "content" and read.mode == mode
        for page, score in zip(read.pages, read.scores, strict=True)
    ]
    found = buckets(pages)
    figures = {
        "mode": mode,
        "bpe_entries": BPE_ENTRIES,
        "characters_per_token": characters_per_token(bpe, sentences(held_out=True)),
        "buckets": [asdict(bucket) for bucket in found],
        "paper": PAPER,
    }
    title = f"Precision against compression, held-out faces, {tokens} vision tokens"
    return figures, precision_chart(curves(found), title=title)


def samples(groups: Iterable[ReadGroup], mode: str) -> list[dict[str, Any]]:
    """The best, the median and the worst page of large type in held-out faces."""
    pages = [
        {"cer": score.characters.rate, "truth": page.truth, "output": reading.text}
        for read in groups
        if read.mode == mode and read.group.table == "large" and read.group.held_out_faces
        for page, reading, score in zip(read.pages, read.readings, read.scores, strict=True)
    ]
    pages.sort(key=lambda page: page["cer"])
    return [pages[0], pages[len(pages) // 2], pages[-1]]


def evaluate(args: argparse.Namespace, work: Path) -> tuple[dict[str, Any], str]:
    """Everything: the figures, and the chart."""
    reader = Reader(args.model.resolve(), work, args.max_tokens)
    groups = [
        read
        for mode in args.modes
        for read in read_generated(reader, mode, args.fonts, quick=args.quick)
    ]
    first = args.modes[0]
    examples_folder = work / "examples"
    shutil.copytree(ROOT / "examples", examples_folder)
    examples = read_real(reader, examples_folder, example_pages(examples_folder), first)
    real = None
    if (args.corpus / "truth" / "TRUTH.tsv").is_file():
        folder = work / "real"
        folder.mkdir()
        pages = corpus_pages(args.corpus, folder)
        real = {mode: read_real(reader, folder, pages, mode) for mode in args.real_modes}
    else:
        print(f"no corpus at {args.corpus}: real pages are left out", file=sys.stderr)
    compression, chart = compression_figures(groups, first)
    record = record_of(groups[0].out, f"{groups[0].group.name}.pdf", 0)
    figures = {
        "conditions": {
            "model": record.model.name,
            "revision": record.model.revision,
            "dtype": record.model.dtype,
            "device": record.run.device,
            "docr": __version__,
            "torch": version("torch"),
            "pymupdf": version("pymupdf"),
            "task": TASK,
            "max_tokens": args.max_tokens,
            "quick": args.quick,
            "seed": SEED,
            "faces": {
                "held-out": len(load_faces(args.fonts, held_out=True)),
                "training": len(load_faces(args.fonts, held_out=False)),
            },
            "held_out_sentences": len(sentences(held_out=True)),
            "pages_per_group": {group.name: group.pages for group in all_groups(quick=args.quick)},
            "converted": reader.converted,
        },
        "generated": generated_rows(groups),
        "real": real,
        "examples": {row["page"]: row["cer"] for row in examples["pages"]},
        "examples_detail": examples["pages"],
        "compression": compression,
        "samples": samples(groups, first),
    }
    return figures, chart


def write(out: Path, figures: dict[str, Any], chart: str) -> None:
    """Write the three files, each at once; mini.md keeps what is above its marker."""
    out.mkdir(parents=True, exist_ok=True)
    page = out / "mini.md"
    above = page.read_text(encoding="utf-8") if page.exists() else TITLE
    above = above.split(MARKER)[0].rstrip()
    contents = {
        page: f"{above}\n\n{MARKER}\n\n{report(figures).rstrip()}\n",
        out / "mini.json": json.dumps(figures, indent=1, ensure_ascii=False) + "\n",
        out / "precision.svg": chart,
    }
    for path, content in contents.items():
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(path)


def native_modes(names: str) -> list[str]:
    """Modes of a comma-separated list; argparse reports others."""
    modes = names.split(",")
    if unknown := set(modes) - set(NATIVE):
        raise argparse.ArgumentTypeError(f"not among {', '.join(NATIVE)}: {sorted(unknown)}")
    return modes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="about 90 generated pages a mode")
    parser.add_argument("--fonts", type=Path, default=ROOT / ".train" / "fonts")
    parser.add_argument("--corpus", type=Path, default=ROOT.parent / "shared" / "corpus")
    parser.add_argument("--modes", type=native_modes, default=["tiny"], help="of generated pages")
    parser.add_argument(
        "--real-modes", type=native_modes, default=["tiny", "base"], help="of the corpus's pages"
    )
    parser.add_argument("--max-tokens", type=int, help="most tokens a page [docr's limit]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        figures, chart = evaluate(args, Path(scratch))
    write(args.out, figures, chart)
    for row in figures["generated"]:
        if row["table"] == "large" and row["pooled"]:
            print(
                f"large type, {row['faces']} faces, {row['mode']}: CER {row['cer']:.3f}, "
                f"wrong {row['wrong']:.3f}, blank {row['blank']:.3f}, "
                f"{'reading' if row['is_reading'] else 'not reading'}"
            )


if __name__ == "__main__":
    main()
