"""What a run prints for scripts and people: the summary and the command that goes on."""

import json
import shlex
from collections import Counter
from pathlib import Path

import pytest

from docr.cli.run import resume_command, summary
from docr.events import Tally


def test_summary_is_json_with_all_counts() -> None:
    tally = Tally(
        documents=3,
        failed_documents=1,
        pages=Counter({"ok": 4, "failed:page-crash": 1}),
        reused=2,
        seconds=1.23456,
        stage_seconds=Counter({"render": 0.5}),
    )
    read = json.loads(json.dumps(summary(tally, 3, Path("out"))))
    assert read["pages"] == {"failed:page-crash": 1, "ok": 4}
    assert (read["failures"], read["reused"], read["exit_code"]) == (2, 2, 3)
    assert (read["out"], read["seconds"], read["stage_seconds"]) == ("out", 1.235, {"render": 0.5})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["convert", "my file.pdf", "-o", "a'b"], ["convert", "my file.pdf", "-o", "a'b"]),
        (["convert", "x", "--overwrite", "--strict"], ["convert", "x", "--strict"]),
        (["convert", "--password", "s3", "x"], ["convert", "--password", "***", "x"]),
        (["convert", "--password=s3", "x"], ["convert", "--password=***", "x"]),
    ],
)
def test_resume_command_can_be_pasted(arguments: list[str], expected: list[str]) -> None:
    assert shlex.split(resume_command(arguments)) == ["docr", *expected]
