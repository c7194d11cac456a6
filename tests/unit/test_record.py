import base64
import hashlib
import json
import math
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from docr.output.build import failed_document, finished_page
from docr.output.figures import cut_figures
from docr.output.line import to_line
from docr.output.record import (
    DocumentRecord,
    ManifestLine,
    PageRecord,
    RunInfo,
    SourceInfo,
    exact_path,
    fingerprint,
    json_schema,
    page_entry,
)
from docr.types import Completion, ParsedPage, SourceFile
from tests.fakes import records


def test_a_record_survives_its_file():
    record, _ = records.page(figure_count=2, keep_tokens=True)
    assert PageRecord.model_validate_json(to_line(record)) == record


def test_checksum_is_that_of_the_line_without_it():
    record, _ = records.page()
    line = to_line(record)
    value = json.loads(line)
    checksum = value.pop("checksum")
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    assert checksum == record.checksum == hashlib.sha256(body).hexdigest()
    assert line == body[:-1] + f',"checksum":"{checksum}"}}\n'.encode()


def test_equal_pages_of_two_runs_differ_in_run_and_checksum_only():
    first, _ = records.page(run_id="one")
    second, _ = records.page(run_id="two")
    ours, theirs = json.loads(to_line(first)), json.loads(to_line(second))
    assert {key for key in ours if ours[key] != theirs[key]} == {"run", "checksum"}


@pytest.mark.parametrize(
    ("finish_reason", "output_tokens"), [("stop", 50), ("length", 50), ("repetition", 50)]
)
def test_compression_counts_no_end_of_sequence(finish_reason, output_tokens):
    record, _ = records.page(finish_reason=finish_reason)
    assert record.output_tokens == output_tokens
    assert (record.vision_tokens, record.sequence_tokens) == (256, 273)
    assert record.compression == pytest.approx(50 / 256, abs=1e-4)


def test_all_token_ids_are_kept_on_demand():
    record, _ = records.page(keep_tokens=True)
    assert record.token_ids[-1] == records.EOS
    assert len(record.token_ids) == record.output_tokens + 1
    assert records.page()[0].token_ids is None


def test_what_the_model_wrote_is_kept_as_it_was():
    record, _ = records.page(markdown="# a")
    assert record.raw == records.completion().text
    assert records.blank().raw is None


def test_confidence_is_rounded_and_absent_where_nothing_was_generated():
    record, _ = records.page(mean_logprob=-0.12345)
    assert record.confidence.model_dump() == {
        "mean_logprob": -0.123,
        "min_logprob": -0.247,
        "score": 0.884,
    }
    assert records.page(mean_logprob=math.nan)[0].confidence is None
    assert records.page(mean_logprob=-math.inf)[0].confidence is None


def test_failures_name_their_code_and_have_no_text():
    record = records.failed(code="encrypted")
    assert (record.state, record.code, record.markdown) == ("failed:encrypted", "encrypted", None)
    assert records.blank().markdown == ""
    assert records.blank(state="damaged").markdown is None


def test_state_and_code_must_agree():
    fields = records.failed().model_dump() | {"state": "ok"}
    with pytest.raises(ValidationError, match="does not go with"):
        PageRecord.model_validate(fields)


def test_unknown_members_are_refused():
    fields = json.loads(to_line(records.failed())) | {"colour": "red"}
    with pytest.raises(ValidationError, match="colour"):
        PageRecord.model_validate(fields)


def test_paths_keep_their_exact_bytes():
    raw = b"caf\xe9\n\x1b[31m.pdf"
    relative = os.fsdecode(raw)
    info = SourceInfo.of(
        SourceFile(path=Path("/in") / relative, root=Path("/in"), relative=relative),
        sha256=None,
        size=None,
    )
    assert info.path == r"caf\xe9\x0a\x1b[31m.pdf"
    assert base64.b64decode(info.path_b64) == raw
    assert info.root_b64 is None
    assert exact_path(info) == b"/in/" + raw


def test_plain_paths_have_no_base64():
    info = records.source("Größe/a b.pdf")
    assert (info.path, info.path_b64) == ("Größe/a b.pdf", None)
    assert exact_path(info) == "/in/Größe/a b.pdf".encode()


def test_messages_are_one_printable_line():
    record = failed_document(
        source=records.source(),
        code="unreadable",
        message="bad \udcff name\nin \x1b[2J",
        fingerprint="0" * 64,
        run=RunInfo(id="run"),
    )
    assert record.message == r"bad \xff name\x0ain \x1b[2J"
    assert DocumentRecord.model_validate_json(to_line(record)) == record


def test_text_that_is_no_unicode_is_still_written():
    record, _ = records.page(markdown="a\ud800b")
    assert record.markdown == "a?b\n"
    assert PageRecord.model_validate_json(to_line(record)) == record


def test_an_empty_completion_is_a_record():
    record = finished_page(
        source=records.source(),
        image=records.image(),
        grid=(2, 3),
        mode="gundam",
        paper_tokens=856,
        sequence_tokens=903,
        completion=Completion(records.image().ref, (), "", "stop", 0.0, 0.0),
        parsed=ParsedPage("", (), ()),
        state="ok",
        model=records.MODEL,
        fingerprint="0" * 64,
        run=RunInfo(id="run"),
    )
    assert (record.output_tokens, record.compression, record.confidence) == (0, 0.0, None)


def test_fingerprint_tells_everything_that_changes_the_text():
    def of(sha256="0" * 64, settings=records.SETTINGS, name="m", revision="1", dtype="float32"):
        return fingerprint(sha256, settings, model_name=name, revision=revision, dtype=dtype)

    changed = [
        of(sha256="1" * 64),
        of(settings=records.SETTINGS | {"mode": "tiny"}),
        of(name="n"),
        of(revision=None),
        of(dtype="bfloat16"),
    ]
    assert len({of(), *changed}) == 6
    assert of() == of(settings=dict(reversed(records.SETTINGS.items())))


def test_figures_are_clamped_to_the_page():
    pixels = records.image(size=(60, 80)).pixels
    boxes = ((-5, -5, 10, 10), (50, 70, 900, 900), (60, 80, 60, 80), (30, 30, 20, 20))
    cut = cut_figures(pixels, [(f"figures/page-0001-{k}.png", box) for k, box in enumerate(boxes)])
    assert [figure.box_px for figure in cut] == [
        (0, 0, 10, 10),
        (50, 70, 60, 80),
        (59, 79, 60, 80),
        (30, 30, 31, 31),
    ]
    assert all(figure.png.startswith(b"\x89PNG") for figure in cut)


def test_json_schema_covers_all_records():
    schema = json_schema()
    names = {reference["$ref"].rpartition("/")[2] for reference in schema["anyOf"]}
    assert names == {"PageRecord", "DocumentRecord", "ManifestLine"}
    for model in (PageRecord, DocumentRecord, ManifestLine):
        definition = schema["$defs"][model.__name__]
        assert list(definition["properties"]) == list(model.model_fields)
        assert definition["additionalProperties"] is False
    assert json.loads(json.dumps(schema)) == schema


def test_a_document_sums_its_pages_up():
    made = [records.page(1)[0], records.failed(2), records.blank(3)]
    entries = [page_entry(record, f"a.pdf/page-{record.page:04d}.json") for record in made]
    whole = records.document(entries[::-1])
    assert (whole.state, whole.complete) == ("partial", True)
    assert whole.totals.pages == {"blank": 1, "failed:page-timeout": 1, "ok": 1}
    assert (whole.totals.output_tokens, whole.totals.vision_tokens) == (50, 256)
    assert [entry.page for entry in whole.pages] == [1, 2, 3]
    assert DocumentRecord.model_validate_json(to_line(whole)) == whole
    part = records.document([entries[0]], page_count=3)
    assert (part.state, part.complete) == ("ok", False)
