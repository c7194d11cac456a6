"""The project around the code: README, licences, examples and version tell the truth."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pymupdf
import pytest
from hatchling.builders.wheel import WheelBuilder

import docr
from docr import errors
from docr.modes.mode import MODES
from scripts import make_examples, make_long_pdf, make_many_pdfs, readme_help

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = ROOT / "examples"


def table_under(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading of README, without its head; no backticks."""
    lines = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0].splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    return [[cell.strip().replace("`", "") for cell in row] for row in rows[2:]]


def error_types(root: type[errors.DocrError]) -> Iterator[type[errors.DocrError]]:
    yield root
    for child in root.__subclasses__():
        yield from error_types(child)


class TestVersion:
    def test_is_three_numbers(self) -> None:
        assert re.fullmatch(r"\d+\.\d+\.\d+", docr.__version__)

    def test_changelog_opens_with_it_or_with_what_is_unreleased(self) -> None:
        changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        first = re.search(r"^## \[([^]]+)\]", changelog, re.MULTILINE)
        assert first is not None
        assert first[1] in ("Unreleased", docr.__version__)


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a wheel built from this tree holds."""
    folder = tmp_path_factory.mktemp("wheel")
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder))
    assert Path(wheel).name == f"docr_cli-{docr.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


class TestWheel:
    def test_carries_licence_and_notice(self, wheel_names: list[str]) -> None:
        folder = f"docr_cli-{docr.__version__}.dist-info/licenses"
        assert f"{folder}/LICENSE" in wheel_names
        assert f"{folder}/NOTICE" in wheel_names

    def test_holds_the_package_and_nothing_else(self, wheel_names: list[str]) -> None:
        assert {name.split("/")[0] for name in wheel_names} == {
            "docr",
            f"docr_cli-{docr.__version__}.dist-info",
        }
        assert "docr/py.typed" in wheel_names


class TestReadme:
    def test_help_is_what_the_program_prints(self) -> None:
        commands = [block["command"] for block in readme_help.BLOCK.finditer(README)]
        assert {"", "convert"} <= set(commands)
        assert README.count("<!-- help:") == len(commands), "a help block is malformed"
        assert readme_help.updated(README) == README, "run: python scripts/readme_help.py"

    def test_names_only_targets_that_make_knows(self) -> None:
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
        named = set(re.findall(r"^ *(?:\$ )?make ([a-z-]+)", README, re.MULTILINE))
        assert named >= {"demo", "test"}
        assert named <= targets

    def test_never_installs_somebody_elses_docr(self) -> None:
        assert not re.search(r"pip install (-\S+ )*docr\b", README)

    def test_lists_the_exit_codes(self) -> None:
        codes = [int(row[0]) for row in table_under("Exit codes")]
        assert codes == sorted({kind.exit_code for kind in error_types(errors.DocrError)} | {
            0, 130, 143
        })  # fmt: skip

    def test_lists_the_failure_codes(self) -> None:
        rows = table_under("Failure codes")
        named = [code for row in rows for code in row[0].replace(",", " ").split()]
        assert sorted(named) == sorted(get_args(errors.FailureCode))

    def test_counts_tokens_as_the_modes_do(self) -> None:
        rows = {row[0]: row for row in table_under("Modes")}
        assert list(rows) == list(MODES)
        for name, mode in MODES.items():
            if mode.tile_px is None:
                assert rows[name][-2:] == [
                    str(mode.paper_tokens((1, 1))),
                    str(mode.num_vision_tokens((1, 1))),
                ]

    def test_local_links_lead_somewhere(self) -> None:
        links = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
        assert links
        for link in links:
            assert (ROOT / link).exists(), link


class TestExamples:
    def test_the_script_repeats_itself_to_the_byte(self, tmp_path: Path) -> None:
        for run in ("first", "second"):
            make_examples.make_examples(tmp_path / run)
        for name in make_examples.DOCUMENTS:
            first, second = (tmp_path / run / name for run in ("first", "second"))
            assert first.read_bytes() == second.read_bytes(), name

    def test_the_folder_holds_what_the_script_makes(self, tmp_path: Path) -> None:
        make_examples.make_examples(tmp_path)
        assert {path.name for path in EXAMPLES.iterdir()} == set(make_examples.DOCUMENTS)
        for name in make_examples.DOCUMENTS:
            made, kept = pymupdf.open(tmp_path / name), pymupdf.open(EXAMPLES / name)
            assert made.page_count == kept.page_count, name
            for page_made, page_kept in zip(made, kept, strict=True):
                assert page_made.get_text() == page_kept.get_text(), name
                # Not equal to the bit: another build may compress or draw a little differently.
                pixels = [
                    np.frombuffer(page.get_pixmap(dpi=36).samples, dtype=np.uint8).astype(int)
                    for page in (page_made, page_kept)
                ]
                assert np.abs(pixels[0] - pixels[1]).mean() < 1, name

    @pytest.mark.parametrize("name", ["notice.pdf", "slides.pdf"])
    def test_large_type_leaves_room_for_few_characters(self, name: str) -> None:
        for page in pymupdf.open(EXAMPLES / name):
            blocks = page.get_text("dict")["blocks"]
            spans = [span for block in blocks for line in block["lines"] for span in line["spans"]]
            assert min(span["size"] for span in spans) >= 40
            assert 130 <= len(" ".join(page.get_text().split())) <= 200

    def test_are_small(self) -> None:
        assert all(path.stat().st_size < 60_000 for path in EXAMPLES.iterdir())


def test_a_long_pdf_has_its_own_text_on_every_page(tmp_path: Path) -> None:
    path = tmp_path / "long.pdf"
    make_long_pdf.make_long_pdf(path, pages=7)
    texts = [page.get_text() for page in pymupdf.open(path)]
    assert [text.split("\n", 1)[0] for text in texts] == [f"Page {n} of 7" for n in range(1, 8)]
    assert len({text.split("\n", 1)[1] for text in texts}) == 7


def test_many_pdfs_have_a_page_each(tmp_path: Path) -> None:
    make_many_pdfs.make_many_pdfs(tmp_path, files=1002)
    paths = sorted(tmp_path.rglob("*.pdf"))
    assert len(paths) == 1002 and paths[-1] == tmp_path / "001/001001.pdf"
    for path in paths[::500]:
        with pymupdf.open(path) as document:
            assert [page.get_text().strip() for page in document] == [f"Document {int(path.stem)}"]
