"""Pages read by the product: `docr convert` in a child process, and the records it wrote."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from docr.output.names import page_stem
from docr.output.record import PageRecord
from scripts.train_mini.score import Reading

TASK = "ocr"

_ROOT = Path(__file__).resolve().parents[2]
_FINISHED = (0, 3)
"""Exit codes of a run that left a record for every page."""


@dataclass(slots=True)
class Reader:
    """Has pages read by docr.

    Attributes:
        model: folder of the checkpoint.
        work: holds the PDFs in folders, gets docr's output.
        max_tokens: most a page; None: docr's own limit.
        converted: pages and seconds of each run so far, for the report.
    """

    model: Path
    work: Path
    max_tokens: int | None
    converted: dict[str, dict[str, float]] = field(default_factory=dict)

    def convert(self, folder: Path, mode: str) -> Path:
        """Convert a folder of PDFs below `work`; returns where the records are.

        Raises:
            RuntimeError: docr did not finish.
        """
        name = folder.relative_to(self.work).parts[0]
        out = self.work / "read" / name / mode
        command = [sys.executable, "-m", "docr", "convert", str(folder), "-o", str(out), "--quiet"]
        command += ["--json", "--model", str(self.model), "--task", TASK, "--mode", mode]
        if self.max_tokens is not None:
            command += ["--max-tokens", str(self.max_tokens)]
        start = time.monotonic()
        run = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
        seconds = time.monotonic() - start
        if run.returncode not in _FINISHED:
            raise RuntimeError(f"docr convert ended with exit code {run.returncode}")
        pages = sum(json.loads(run.stdout)["pages"].values())
        self.converted[f"{name}, {mode}"] = {"pages": pages, "seconds": round(seconds, 1)}
        print(f"{name} in {mode}: {pages} pages in {seconds:.0f} s", file=sys.stderr)
        return out


def record_of(out: Path, pdf: str, index: int) -> PageRecord:
    """The record of a page of a converted PDF, by its 0-based index."""
    path = out / pdf / f"{page_stem(index + 1)}.json"
    return PageRecord.model_validate_json(path.read_bytes())


def reading_of(out: Path, pdf: str, index: int) -> Reading:
    """What was read on a page; nothing, if it failed."""
    record = record_of(out, pdf, index)
    return Reading(record.markdown or "", record.state, record.output_tokens, record.vision_tokens)


def blank_text(out: Path, pdf: str, index: int) -> str:
    """What was written for a blank page.

    Raises:
        RuntimeError: the model was not asked about it.
    """
    reading = reading_of(out, pdf, index)
    if reading.vision_tokens == 0:
        raise RuntimeError(f"{pdf}: the model never saw page {index + 1} ({reading.state})")
    return reading.text
