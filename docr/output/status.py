"""What an output folder holds, from its records alone: for `docr status`, without a model."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from docr.errors import FailureCode
from docr.events import DONE_STATES, Tally
from docr.output.folder import read_format
from docr.output.read import DocumentJSON, walk_documents
from docr.output.record import SourceInfo, exact_path

MOST_FAILURES = 1000
MOST_DOUBTFUL = 20
CUT_OFF = ("repetition", "truncated")


@dataclass(frozen=True, slots=True)
class Outcome:
    """A page, or (`page` None) a file that failed before its pages were known.

    Attributes:
        path: the input, relative to its root.
        page: 1-based number.
        confidence: exp of the tokens' mean log-probability; None: the model was not asked.
        record: path of the record relative to the output folder.
    """

    path: str
    page: int | None
    state: str
    code: FailureCode | None
    message: str | None
    confidence: float | None
    record: str


@dataclass(frozen=True, slots=True)
class Status:
    """The state of an output folder.

    Attributes:
        tally: counts, as after a run over everything in the folder.
        incomplete: documents with pages that have no record (after --pages, or a stopped run).
        failures: the first 1000 failed or damaged pages and failed files, in the folder's order.
        doubtful: the 20 pages that a person should look at first: those that ended in repetition
            or were cut off, then the others from the lowest confidence up.
    """

    tally: Tally
    incomplete: int
    failures: tuple[Outcome, ...]
    doubtful: tuple[Outcome, ...]


def read_status(out: Path) -> Status:
    """Sum up an output folder, from the records that can be trusted.

    Raises:
        IncompatibleError: it is not an output folder of docr, or of an unknown version.
    """
    read_format(out)
    tally = Tally()
    incomplete = 0
    failures: list[Outcome] = []
    doubtful: list[Outcome] = []
    for path, document in walk_documents(out):
        outcomes = _outcomes(path, document)
        tally.documents += 1
        tally.pages.update(outcome.state for outcome in outcomes if outcome.page is not None)
        tally.failed_documents += document["code"] is not None
        tally.output_tokens += sum(page["output_tokens"] for page in document["pages"])
        tally.vision_tokens += sum(page["vision_tokens"] for page in document["pages"])
        incomplete += document["code"] is None and not document["complete"]
        failed = [outcome for outcome in outcomes if outcome.state not in DONE_STATES]
        failures += failed[: MOST_FAILURES - len(failures)]
        candidates = [
            outcome
            for outcome in outcomes
            if outcome.confidence is not None or outcome.state in CUT_OFF
        ]
        doubtful = heapq.nsmallest(MOST_DOUBTFUL, doubtful + candidates, key=_doubt)
    return Status(tally, incomplete, tuple(failures), tuple(doubtful))


def failed_sources(out: Path) -> Iterator[bytes]:
    """Exact absolute paths of the files that failed, or have a failed or damaged page.

    Raises:
        IncompatibleError: it is not an output folder of docr, or of an unknown version.
    """
    read_format(out)
    for _, document in walk_documents(out):
        if document["state"] != "ok":
            yield exact_path(SourceInfo.model_validate(document["source"]))


def _outcomes(path: str, document: DocumentJSON) -> list[Outcome]:
    """What became of a document's pages, or of the file itself; `path` is its record's."""
    source = document["source"]["path"]
    if document["code"] is not None:
        state, code, message = document["state"], document["code"], document["message"]
        return [Outcome(source, None, state, code, message, None, path)]
    return [
        Outcome(
            path=source,
            page=page["page"],
            state=page["state"],
            code=page["code"],
            message=page["message"],
            confidence=page["confidence"],
            record=page["record"],
        )
        for page in document["pages"]
    ]


def _doubt(outcome: Outcome) -> tuple[bool, float]:
    """The smaller, the more doubtful."""
    return outcome.state not in CUT_OFF, 1.0 if outcome.confidence is None else outcome.confidence
