"""Convert a corpus of broken and of good PDFs, and compare what is said of each with what is due.

    python -m scripts.check_corpus CORPUS OUT [--folders bad,good] [-- DOCR OPTIONS]

CORPUS holds MANIFEST.tsv, with at least the columns expected_class, file (below CORPUS) and pages,
and the folders that it names. Results go to OUT/<folder>; a second run goes on where the first was
stopped. Without further options pages are read by an engine that has no model: this is about
files. Prints a table of classes, what counts as equal with a remark, and every miss; exits 1 where
a goal is missed: 97 % of a folder equal (100 % of good/), one line for each file that failed, no
traceback, no more than --minutes for a folder, and docr's exit code 3, or 0 for good/.

Expected classes, and what is equal to them:

    OK, OK-with-warnings        every page has a result; with warnings, one may be flagged damaged
    FILE_ERROR:<reason>         the file failed with a code of that reason, or the second rendering
                                engine drew a page of it
    PAGE_ERROR…, PARTIAL…       the file is open, pages failed or damaged are named (that page,
                                where the class says which; for a timeout, one that took too long
                                or was refused as too large), all others have a result
    OK-or-PAGE_ERROR…           the file is open
"""

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from docr.escape import escaped
from docr.events import DONE_STATES

ROOT = Path(__file__).resolve().parents[1]
WITHOUT_MODEL = ("--engine", "tests.fakes.engines:echo", "--mode", "gundam")

REASONS = {
    "no-pages": {"no-pages", "unreadable"},
    "cannot-open": {"unreadable", "no-pages", "not-a-pdf", "empty-file"},
    "not-a-pdf": {"not-a-pdf"},
    "encrypted": {"encrypted"},
    "encrypted-or-damaged": {"encrypted", "unreadable"},
}
GOALS = {"bad": (0.97, 3), "good": (1.0, 0)}  # share that is equal, exit code
_NAMED_PAGE = re.compile(r"page(\d+)-(blank-or-)?error")


@dataclass(frozen=True)
class Page:
    number: int
    state: str
    engine: str

    @property
    def done(self) -> bool:
        return self.state in DONE_STATES


@dataclass(frozen=True)
class Found:
    """What docr says of a file: the code it failed with, or its pages."""

    code: str | None
    pages: tuple[Page, ...]

    def __str__(self) -> str:
        if self.code is not None:
            return self.code
        states = Counter(page.state for page in self.pages)
        return ", ".join(f"{count} {state}" for state, count in states.most_common())


@dataclass(frozen=True)
class Verdict:
    """Whether an outcome is what was expected, and what is to be said of it."""

    equal: bool
    remark: str = ""


def judge(expected: str, page_count: int | None, found: Found) -> Verdict:
    kind, _, detail = expected.partition(":")
    bad = [page for page in found.pages if not page.done]
    if kind == "FILE_ERROR":
        if found.code is not None:
            return Verdict(found.code in REASONS[detail])
        drawn = [page for page in found.pages if page.done and page.engine.startswith("pdfium")]
        return Verdict(bool(drawn), "the second engine drew it" if drawn else "")
    if found.code is not None:
        return Verdict(False)
    if page_count is not None and len(found.pages) != page_count:
        return Verdict(False, f"{page_count} pages expected")
    if kind == "OK-or-PAGE_ERROR":
        return Verdict(True)
    if kind == "OK":
        return Verdict(not bad)
    if kind == "OK-with-warnings":
        flagged = all(page.state == "damaged" for page in bad)
        return Verdict(flagged, "a page is flagged damaged" if bad and flagged else "")
    if named := _NAMED_PAGE.match(detail):
        number, may_be_blank = int(named[1]), named[2] is not None
        page = found.pages[number - 1]
        hit = not page.done or (may_be_blank and page.state == "blank")
        return Verdict(hit and all(other is page for other in bad))
    if detail.startswith("timeout"):
        states = {page.state for page in bad}
        if "failed:page-timeout" in states:
            return Verdict(True)
        if "failed:too-large" in states:
            return Verdict(True, "another limit came before that of time")
        return Verdict(False)
    return Verdict(bool(bad))


def outcomes(out: Path) -> dict[str, Found]:
    """What an output folder says of each file, by its path."""
    codes: dict[str, str] = {}
    pages: dict[str, list[Page]] = defaultdict(list)
    for text in (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        if line["page"] is None:
            codes[line["path"]] = line["code"]
        else:
            pages[line["path"]].append(Page(line["page"], line["state"], line["engine"] or ""))
    return {
        path: Found(codes.get(path), tuple(sorted(pages[path], key=lambda page: page.number)))
        for path in {*codes, *pages}
    }


def convert(folder: Path, out: Path, options: Sequence[str], *, seconds: float) -> tuple[int, str]:
    """Run docr; its exit code and all that it says on stderr. -9: it had to be killed."""
    command = [sys.executable, "-m", "docr", "convert", str(folder), "-o", str(out), *options]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environ
    ) as process:
        try:
            _, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            _, said = process.communicate()
    return process.returncode, said.decode(errors="backslashreplace")


def check(corpus: Path, name: str, out: Path, options: Sequence[str], *, minutes: float) -> bool:
    """Convert a folder and print what came of it; whether all goals are met."""
    with (corpus / "MANIFEST.tsv").open(encoding="utf-8", errors="surrogateescape") as file:
        table = [row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    begin = time.monotonic()
    code, said = convert(corpus / name, out, options, seconds=60 * minutes + 60)
    seconds = time.monotonic() - begin
    found = outcomes(out)

    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])  # equal, all
    remarks, misses, silent = [], [], []
    for row in table:
        folder, _, file = row["file"].partition("/")
        if folder != name:
            continue
        expected, path = row["expected_class"], escaped(file)
        outcome = found.get(path, Found("nothing at all", ()))
        verdict = judge(expected, int(row["pages"]) if row["pages"] else None, outcome)
        counts[expected][0] += verdict.equal
        counts[expected][1] += 1
        line = f"{path}: {expected}: {outcome}" + (f" ({verdict.remark})" * bool(verdict.remark))
        if not verdict.equal:
            misses.append(line)
        elif verdict.remark:
            remarks.append(line)
        if path in found and outcome.code and said.count(f"ERROR {path}: {outcome.code}: ") != 1:
            silent.append(path)

    print(f"{name}/\n\n| expected | files | equal |\n|---|---|---|")
    for expected, (equal, total) in sorted(counts.items()):
        print(f"| {expected} | {total} | {equal} |")
    equal, total = (sum(column) for column in zip(*counts.values(), strict=True))
    print(f"| all | {total} | {equal} ({equal / total:.1%}) |\n")
    for title, lines in (("equal, with a remark", remarks), ("misses", misses)):
        print(f"{title}: {len(lines)}", *lines, sep="\n  ")
    share, due = GOALS[name]
    goals = {
        f"{share:.0%} equal": equal >= share * total,
        f"exit code {due}, was {code}": code == due,
        f"at most {minutes:g} min, took {seconds:.0f} s": seconds <= 60 * minutes,
        "no traceback": "Traceback" not in said,
        f"one line a failed file{''.join(f'; not so: {path}' for path in silent)}": not silent,
    }
    for goal, met in goals.items():
        print(f"{'reached' if met else 'MISSED '}  {goal}")
    print()
    return all(goals.values())


def main() -> int:
    arguments = sys.argv[1:]
    options: Sequence[str] = WITHOUT_MODEL
    if "--" in arguments:
        options = arguments[arguments.index("--") + 1 :]
        arguments = arguments[: arguments.index("--")]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--folders", default="bad,good")
    parser.add_argument("--minutes", type=float, default=10, help="for each folder [10]")
    given = parser.parse_args(arguments)
    reached = [
        check(given.corpus, name, given.out / name, options, minutes=given.minutes)
        for name in given.folders.split(",")
    ]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
