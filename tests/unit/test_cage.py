import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from docr.errors import DocrError, InputError
from docr.pdf.cage import Cage, DocumentInfo, Outcome, RenderedPage, RenderSettings, RenderTask
from docr.types import PageFailure, SourceFile
from tests import pdfs
from tests.fakes.transforms import Mark

if sys.platform == "win32":
    pytest.skip("rendering needs a POSIX system", allow_module_level=True)

FAKES = "tests.fakes.transforms:"
SETTINGS = RenderSettings(dpi=36, page_timeout=20)


FAULTS = {
    **{11: "crash", 12: "exit", 13: "killed", 14: "raise", 15: "memory"},
    **{16: "babble", 17: "flood", 18: "lie", 19: "crash", 20: "hold on"},
}


@pytest.fixture(scope="module")
def cage() -> Iterator[Cage]:
    """One for most tests: starting takes a second."""
    with faulty(FAULTS, workers=2) as made:
        yield made


@pytest.fixture(scope="module", params=[True, False], ids=["forked", "spawned"])
def either(request: pytest.FixtureRequest) -> Iterator[Cage]:
    """Both ways to start children."""
    if request.param and sys.platform != "linux":
        pytest.skip("the fork server is for Linux")
    with Cage(SETTINGS, transform=FAKES + "views", workers=2, fork_server=request.param) as made:
        yield made


def faulty(faults: dict[int, str], *, timeout: float = 20, workers: int = 1) -> Cage:
    settings = RenderSettings(dpi=36, page_timeout=timeout)
    transform = FAKES + "faulty"
    return Cage(settings, transform=transform, transform_arg=faults, workers=workers)


def outcomes(cage: Cage, *tasks: RenderTask, limit: int = 3) -> list[Outcome]:
    for task in tasks:
        cage.submit(task)
    found: list[Outcome] = []
    deadline = time.monotonic() + 120
    while cage.pending:
        assert time.monotonic() < deadline, found
        batch = cage.poll(5, limit=limit)
        assert len(batch) <= limit
        found += batch
    return found


def newest_child() -> psutil.Process:
    """The process started last: not the one of the largest id, as ids begin anew."""
    return max(psutil.Process().children(), key=psutil.Process.create_time)


def index_of(outcome: Outcome) -> int:
    return outcome.ref.index if isinstance(outcome, PageFailure) else outcome.image.ref.index


def state_of(outcome: Outcome) -> str:
    return outcome.code if isinstance(outcome, PageFailure) else "ok"


def test_pages_arrive_whole_and_in_order(either: Cage, tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.tinted_pages(6))
    assert either.inspect(source).page_count == 6
    found = outcomes(either, RenderTask(source, (0, 2, 3, 5)))
    assert [index_of(page) for page in found] == [0, 2, 3, 5]
    for page in found:
        assert isinstance(page, RenderedPage)
        index = page.image.ref.index
        assert page.image.ref.path == source.path
        assert page.image.pixels.shape == (421, 298, 3)
        assert tuple(page.image.pixels[0, 0]) == (index, 255, 255)
        assert page.image.has_text
        assert page.image.px_to_pt is not None
        assert page.views is not None
        assert not page.blank
        assert page.views.image_size == (298, 421)
        assert page.views.grid == (2, 1)
        assert np.all(page.views.global_view == index)
        assert page.views.tiles.shape == (2, 3, 8, 8)
        assert (page.views.tiles[0].max(), page.views.tiles[1].min()) == (1, 2)
        assert page.seconds > 0
        assert page.transform_seconds > 0


def test_documents_are_rendered_side_by_side(cage: Cage, tmp_path: Path) -> None:
    tasks = [
        RenderTask(pdfs.saved(tmp_path, f"{n}.pdf", pdfs.text_pages(3)), (0, 1, 2)) for n in "abc"
    ]
    found = outcomes(cage, *tasks, limit=1)
    for task in tasks:
        pages = [page for page in found if page.image.ref.path == task.source.path]  # type: ignore[union-attr]
        assert [index_of(page) for page in pages] == [0, 1, 2]


def test_inspecting_tells_of_the_document(cage: Cage, tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.text_pages(2))
    info = cage.inspect(source)
    assert info == DocumentInfo(2, (), info.rendered_by, ())
    assert info.rendered_by.startswith("mupdf ")
    assert cage.inspect(source, sizes=True).sizes_px == ((298, 421), (298, 421))
    broken = pdfs.saved(tmp_path, "broken.pdf", pdfs.broken_xref())
    assert any("repair" in warning for warning in cage.inspect(broken).warnings)


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("e.pdf", b"", "empty-file"),
        ("z.pdf", pdfs.zero_pages(), "no-pages"),
        ("l.pdf", pdfs.encrypted(), "encrypted"),
        ("g.pdf", pdfs.garbage(), "unreadable"),
        ("t.pdf", b"hello", "not-a-pdf"),
        ("i.png", b"hello", "unreadable"),
    ],
)
def test_files_that_cannot_be_opened(
    cage: Cage, tmp_path: Path, name: str, data: bytes, code: str
) -> None:
    source = pdfs.saved(tmp_path, name, data)
    with pytest.raises(InputError) as failure:
        cage.inspect(source)
    assert failure.value.code == code
    assert str(tmp_path) not in failure.value.message
    found = outcomes(cage, RenderTask(source, (0, 1)))
    assert [state_of(page) for page in found] == [code, code]
    assert all(isinstance(page, PageFailure) and page.stage == "open" for page in found)


def test_files_that_are_no_files(cage: Cage, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pdf")
    (tmp_path / "loop.pdf").symlink_to(tmp_path / "loop.pdf")
    expected = {"pipe.pdf": "special-file", "gone.pdf": "unreadable", "loop.pdf": "unreadable"}
    for name, code in expected.items():
        with pytest.raises(InputError) as failure:
            cage.inspect(SourceFile(tmp_path / name, tmp_path, name))
        assert failure.value.code == code
    with pytest.raises(InputError) as failure:
        cage.inspect(SourceFile(tmp_path, tmp_path, "folder"))
    assert failure.value.code == "special-file"


def test_blank_pages_have_no_views(cage: Cage, tmp_path: Path) -> None:
    (page,) = outcomes(cage, RenderTask(pdfs.saved(tmp_path, "x.pdf", pdfs.blank_page()), (0,)))
    assert isinstance(page, RenderedPage)
    assert page.blank
    assert page.views is None
    assert page.image.pixels.shape == (421, 298, 3)
    assert np.all(page.image.pixels == 255)


def test_page_images(cage: Cage, tmp_path: Path) -> None:
    from PIL import Image

    frames = [Image.new("RGB", (20, 10), (n, 0, 0)) for n in (5, 6)]
    for frame in frames:
        frame.putpixel((9, 9), (255, 255, 255))
    source = pdfs.saved(tmp_path, "scan.tif", pdfs.tiff(*frames))
    assert cage.inspect(source, sizes=True).sizes_px == ((20, 10), (20, 10))
    for page in outcomes(cage, RenderTask(source, (0, 1))):
        assert isinstance(page, RenderedPage)
        assert page.views is not None
        assert np.all(page.views.global_view == 5 + page.image.ref.index)
        assert page.image.px_to_pt is None


def test_a_page_beyond_the_end_fails(cage: Cage, tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.text_pages(1))
    found = outcomes(cage, RenderTask(source, (0, 7)))
    assert [state_of(page) for page in found] == ["ok", "input-changed"]


def test_inspecting_from_many_threads(cage: Cage, tmp_path: Path) -> None:
    sources = [pdfs.saved(tmp_path, f"{n}.pdf", pdfs.text_pages(n)) for n in range(1, 7)]
    counts: dict[int, int] = {}

    def inspect(number: int) -> None:
        counts[number] = cage.inspect(sources[number]).page_count

    threads = [threading.Thread(target=inspect, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    assert len(outcomes(cage, RenderTask(sources[5], tuple(range(6))))) == 6
    for thread in threads:
        thread.join()
    assert counts == {n: n + 1 for n in range(6)}


def test_nothing_to_do(cage: Cage, tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.text_pages(1))
    assert outcomes(cage, RenderTask(source, ())) == []
    assert cage.poll(60, limit=4) == []  # at once: nothing is pending


@pytest.mark.parametrize(
    ("bad", "code", "says"),
    [
        (11, "page-crash", "SIGSEGV"),
        (12, "page-crash", "exit code 3"),
        (13, "page-memory", "out of memory"),
        (14, "page-error", "no views of this page"),
        (15, "page-memory", "memory"),
        (16, "page-crash", "nonsense"),
        (17, "page-crash", "nonsense"),
        (18, "page-crash", "nonsense"),
    ],
    ids=lambda value: FAULTS.get(value, "") if isinstance(value, int) else "",
)
def test_one_bad_page_costs_one_page(
    cage: Cage, tmp_path: Path, bad: int, code: str, says: str
) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.tinted_pages(20))
    found = outcomes(cage, RenderTask(source, (0, bad, 1, 2)))
    assert [index_of(page) for page in found] == [0, bad, 1, 2]
    assert [state_of(page) for page in found] == ["ok", code, "ok", "ok"]
    failure = found[1]
    assert isinstance(failure, PageFailure)
    assert says in failure.message
    assert failure.stage == ("prepare" if FAULTS[bad] in ("raise", "memory") else "render")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is sealed on Linux only")
def test_memory_that_a_child_holds_on_to_is_not_taken(cage: Cage, tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.tinted_pages(22))
    before, failed, after = outcomes(cage, RenderTask(source, (5, 20, 21)))
    assert isinstance(failed, PageFailure) and failed.code == "page-crash"
    assert (state_of(before), state_of(after)) == ("ok", "ok")


def test_a_page_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.slow_page(1, pages=3))
    begin = time.monotonic()
    with faulty({}, timeout=3) as cage:
        found = outcomes(cage, RenderTask(source, (0, 1, 2)))
    assert [state_of(page) for page in found] == ["ok", "page-timeout", "ok"]
    assert 3 <= time.monotonic() - begin < 30
    failure = found[1]
    assert isinstance(failure, PageFailure)
    assert "3 s" in failure.message


def test_after_three_killed_pages_the_rest_is_skipped(cage: Cage, tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.tinted_pages(20))
    found = outcomes(cage, RenderTask(source, (11, 0, 12, 13, 1, 14, 19)))
    assert [state_of(page) for page in found] == [
        *("page-crash", "ok", "page-crash", "page-memory", "skipped", "skipped", "skipped")
    ]
    # Those of its later chunks are not tried at all, nor other documents given up with it.
    assert [state_of(page) for page in outcomes(cage, RenderTask(source, (2, 3)))] == [
        *("skipped", "skipped")
    ]
    # A page that fails without killing its child is not one of the three.
    other = pdfs.saved(tmp_path, "y.pdf", pdfs.tinted_pages(20))
    found = outcomes(cage, RenderTask(other, (14, 11, 14, 14, 12, 0)))
    assert [state_of(page) for page in found].count("page-error") == 3
    assert state_of(found[-1]) == "ok"


@pytest.mark.parametrize("seed", range(3))
def test_every_page_comes_back_once(cage: Cage, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    tasks = []
    for number in range(5):
        source = pdfs.saved(tmp_path, f"{number}.pdf", pdfs.tinted_pages(24))
        indexes = tuple(sorted(chance.sample(range(24), chance.randint(1, 12))))
        tasks.append(RenderTask(source, indexes))
    tasks.append(RenderTask(pdfs.saved(tmp_path, "bad.pdf", pdfs.garbage()), (0, 1)))
    tasks.append(RenderTask(SourceFile(tmp_path / "none", tmp_path, "none"), (0,)))
    for task in tasks:
        cage.submit(task)
    wanted = sum(len(task.indexes) for task in tasks)
    assert cage.pending == wanted
    found: list[Outcome] = []
    while cage.pending:
        found += cage.poll(chance.choice([0.0, 0.01, 5.0]), limit=chance.randint(1, 5))
        assert len(found) + cage.pending == wanted
    for task in tasks:
        mine = [page for page in found if _path(page) == task.source.path]
        assert [index_of(page) for page in mine] == list(task.indexes)
        skipped = [state_of(page) == "skipped" for page in mine]
        for page in mine:
            if state_of(page) == "ok":
                assert index_of(page) not in FAULTS
        assert skipped == sorted(skipped)


def _path(outcome: Outcome) -> Path:
    return outcome.ref.path if isinstance(outcome, PageFailure) else outcome.image.ref.path


def test_a_child_waits_where_nobody_polls(tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.tinted_pages(20))
    marks = tmp_path / "marks"
    transform, argument = FAKES + "marking", Mark(marks)
    with Cage(SETTINGS, transform=transform, transform_arg=argument, slots=2) as cage:
        cage.submit(RenderTask(source, tuple(range(20))))
        while not cage.poll(1, limit=1):
            pass
        time.sleep(0.5)
        assert marks.stat().st_size <= 3  # one taken, two in their slots
        assert cage.pending == 19
        assert len(outcomes(cage)) == 19


def test_waiting_is_not_held_against_a_page(tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.tinted_pages(6))
    with faulty({}, timeout=2) as cage:
        cage.submit(RenderTask(source, tuple(range(6))))
        found: list[Outcome] = []
        while not found:
            found += cage.poll(1, limit=1)
        time.sleep(2.5)  # as a long step of the model
        found += outcomes(cage)
    assert [state_of(page) for page in found] == ["ok"] * 6


def test_a_child_stops_itself_where_nobody_polls(tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.slow_page(0, pages=2))
    with faulty({}, timeout=1) as cage:
        cage.inspect(source)  # or starting could take all the time that is polled for
        cage.submit(RenderTask(source, (0, 1)))
        assert cage.poll(0.9, limit=1) == []
        server = newest_child()
        deadline = time.monotonic() + 30
        while server.children() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert server.children() == []
        assert [state_of(page) for page in outcomes(cage)] == ["page-timeout", "ok"]


def forked() -> set[int]:
    """The children of the fork server that was started last."""
    return {child.pid for child in newest_child().children()}


def until_gone(number: int) -> bool:
    deadline = time.monotonic() + 30
    while psutil.pid_exists(number) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not psutil.pid_exists(number)


def drawn_by(page: Outcome) -> int:
    assert isinstance(page, RenderedPage) and page.views is not None, page
    high, low = page.views.image_size
    return (high << 16) + low


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the fork server is for Linux")


@linux_only
def test_the_child_that_counted_pages_renders_them(tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.tinted_pages(5))
    with Cage(SETTINGS, transform=FAKES + "whose", workers=2) as cage:
        assert cage.inspect(source, keep=True).page_count == 5
        (counted,) = forked()
        pages = outcomes(cage, RenderTask(source, (0, 1, 4)), RenderTask(source, (2, 3)))
    by = {index_of(page): drawn_by(page) for page in pages}
    assert by[0] == by[1] == by[4] == counted
    assert by[2] == by[3] != counted


@linux_only
def test_a_child_that_waits_is_not_needed(tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.tinted_pages(40))
    with Cage(SETTINGS, transform=FAKES + "whose") as cage:
        cage.inspect(source, keep=True)
        (counted,) = forked()
        os.kill(counted, signal.SIGKILL)
        assert until_gone(counted)
        assert [state_of(page) for page in outcomes(cage, RenderTask(source, (0, 1)))] == ["ok"] * 2
        cage.inspect(source, keep=True)
        (counted,) = forked()
        pages = outcomes(cage, RenderTask(source, tuple(range(40))))  # more than it may
        assert len(pages) == 40 and counted not in {drawn_by(page) for page in pages}


@linux_only
def test_children_do_not_wait_for_documents_that_were_passed(tmp_path: Path) -> None:
    sources = [pdfs.saved(tmp_path, f"{n}.pdf", pdfs.tinted_pages(2)) for n in range(4)]
    with Cage(SETTINGS, transform=FAKES + "whose") as cage:
        for source in sources:
            cage.inspect(source, keep=True)
        assert len(forked()) == 4
        outcomes(cage, RenderTask(sources[2], (0,)))
        deadline = time.monotonic() + 30
        while len(forked()) > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        (last,) = forked()
        (page,) = outcomes(cage, RenderTask(sources[3], (1,)))
        assert drawn_by(page) == last
        assert len(outcomes(cage, RenderTask(sources[0], (0, 1)))) == 2


@linux_only
def test_only_so_many_children_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docr.pdf.kept.MOST_KEPT", 3)
    sources = [pdfs.saved(tmp_path, f"{n}.pdf", pdfs.tinted_pages(1)) for n in range(6)]
    fds = psutil.Process().num_fds()
    with Cage(SETTINGS, transform=FAKES + "whose") as cage:
        for source in sources:
            cage.inspect(source, keep=True)
        deadline = time.monotonic() + 30
        while len(forked()) > 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(forked()) == 3
        children = [psutil.Process(number) for number in forked()]
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert psutil.Process().num_fds() == fds


@pytest.mark.parametrize("keep", [True, False])
def test_a_machine_without_memory_for_a_page_is_not_the_documents_fault(
    keep: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    source = pdfs.saved(tmp_path, "x.pdf", pdfs.tinted_pages(3))
    with faulty({}) as cage:
        cage.inspect(source, keep=keep)
        with monkeypatch.context() as patch:
            patch.setattr("docr.pdf.session.make_memory", full)
            found = outcomes(cage, RenderTask(source, (0, 1, 2)))
        assert [state_of(page) for page in found] == ["io-read"] * 3
        with monkeypatch.context() as patch:
            patch.setattr("docr.pdf.work.take_contents", lambda descriptor: full())
            found = outcomes(cage, RenderTask(source, (0, 1, 2)))
        assert [state_of(page) for page in found] == ["io-read"] * 3
        assert [state_of(page) for page in outcomes(cage, RenderTask(source, (1,)))] == ["ok"]


def test_waiting_to_be_asked_is_not_held_against_a_document(tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.tinted_pages(2))
    with faulty({}, timeout=1) as cage:
        cage.inspect(source, keep=True)
        time.sleep(1.5)
        assert [state_of(page) for page in outcomes(cage, RenderTask(source, (0, 1)))] == ["ok"] * 2


def test_children_load_neither_torch_nor_a_tokenizer(tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.text_pages(1))
    transform, names = FAKES + "modules", ("docr.modes.prepare",)
    with Cage(SETTINGS, transform=transform, transform_arg=names) as cage:
        (page,) = outcomes(cage, RenderTask(source, (0,)))
    assert isinstance(page, RenderedPage)
    assert page.views is not None
    assert page.views.image_size == (0, 1)  # torch is not loaded, pymupdf is


def test_the_parent_loads_no_renderer() -> None:
    code = (
        "import sys, docr.pdf.cage, docr.pdf.discover, docr.pdf.pages\n"
        "print(sorted({'pymupdf', 'PIL', 'torch', 'multiprocessing'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_transform_that_cannot_be_loaded_is_an_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.text_pages(1))
    made = Cage(SETTINGS, transform="no.such:thing")
    with made as cage, pytest.raises(DocrError, match="cannot start"):
        cage.inspect(source)
    with Cage(SETTINGS, transform="no.such:thing", fork_server=False) as cage:
        cage.submit(RenderTask(source, (0,)))
        with pytest.raises(DocrError, match="cannot start"):
            cage.poll(60, limit=1)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "No module named 'no'" in captured.err


@pytest.mark.skipif(sys.platform != "linux", reason="the fork server is for Linux")
def test_the_fork_server_is_replaced_when_it_dies(tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.tinted_pages(5))
    with faulty({}) as cage:
        assert cage.inspect(source).page_count == 5
        newest_child().kill()
        assert cage.inspect(source).page_count == 5
        cage.submit(RenderTask(source, tuple(range(5))))
        found: list[Outcome] = []
        while not found:
            found += cage.poll(5, limit=1)
        newest_child().kill()
        found += outcomes(cage)
    assert [index_of(page) for page in found] == [0, 1, 2, 3, 4]
    assert [state_of(page) for page in found].count("ok") >= 4
    assert {state_of(page) for page in found} <= {"ok", "page-memory"}


@pytest.mark.skipif(sys.platform != "linux", reason="the fork server is for Linux")
def test_the_fork_server_survives_children_that_end_while_they_are_killed(tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.garbage())
    with faulty({}) as cage:
        server = newest_child()
        for _ in range(60):
            with pytest.raises(InputError):
                cage.inspect(source)
        assert server.is_running()
        assert server.status() != psutil.STATUS_ZOMBIE


def test_signals_for_everybody_do_not_look_like_crashes(tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.tinted_pages(6))
    with faulty({}) as cage:
        cage.submit(RenderTask(source, tuple(range(6))))
        found: list[Outcome] = []
        while cage.pending:
            found += cage.poll(5, limit=1)
            if not found:
                continue  # still starting
            for child in psutil.Process().children(recursive=True):
                child.send_signal(signal.SIGINT)
                child.send_signal(signal.SIGTERM)
    assert [state_of(page) for page in found] == ["ok"] * 6


def test_closing_leaves_nothing(tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.tinted_pages(4))
    others, before = set(psutil.Process().children()), psutil.Process().num_fds()
    for close_early in (False, True):
        with faulty({1: "crash"}) as cage:
            assert cage.inspect(source).page_count == 4
            cage.submit(RenderTask(source, (0, 1, 2, 3)))
            if close_early:
                cage.poll(5, limit=1)
            else:
                outcomes(cage)
            children = list(set(psutil.Process().children(recursive=True)) - others)
            assert children
        cage.close()  # again
        assert psutil.wait_procs(children, timeout=10)[1] == []
    assert psutil.Process().num_fds() == before


def test_children_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.tinted_pages(2))
    code = f"""
import json, psutil
from pathlib import Path
from docr.pdf.cage import Cage, RenderSettings, RenderTask
from docr.types import SourceFile
path = Path({str(source.path)!r})
cage = Cage(RenderSettings(dpi=36), transform="tests.fakes.transforms:faulty",
            transform_arg={{1: "hang"}})
cage.submit(RenderTask(SourceFile(path, path.parent, path.name), (0, 1)))
while not cage.poll(1, limit=1):
    pass
print(json.dumps([p.pid for p in psutil.Process().children(recursive=True)]), flush=True)
cage.poll(60, limit=1)
"""
    # A script without a main guard: nothing of the cage may import it again.
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout as output:
        children = [psutil.Process(pid) for pid in json.loads(output.readline())]
    assert len(children) >= (2 if sys.platform == "linux" else 1)
    parent.kill()
    parent.wait()
    assert psutil.wait_procs(children, timeout=15)[1] == []


def test_memory_does_not_grow_with_the_document(tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.text_pages(150))
    with Cage(RenderSettings(dpi=72), transform=FAKES + "views") as cage:
        outcomes(cage, RenderTask(source, tuple(range(10))))
        before = psutil.Process().memory_info().rss
        cage.submit(RenderTask(source, tuple(range(150))))
        peak = 0
        while cage.pending:
            cage.poll(5, limit=4)
            peak = max(peak, psutil.Process().memory_info().rss)
    assert peak - before < 60 << 20  # 150 pages are 225 MB of pixels


def test_an_import_path_of_the_working_folder_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('a trap')")
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.text_pages(1))
    monkeypatch.chdir(tmp_path)
    with Cage(SETTINGS, transform=FAKES + "views") as cage:
        assert cage.inspect(source).page_count == 1
