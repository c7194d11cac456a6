"""What a rendering child can still do once it is locked up, and what happens where it cannot be."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from docr.errors import SandboxMissing
from docr.pdf import seccomp
from docr.pdf.cage import Cage, RenderedPage, RenderSettings, RenderTask
from docr.pdf.settings import SANDBOX
from docr.types import SourceFile
from tests import pdfs
from tests.fakes import old_kernel

if sys.platform == "win32":
    pytest.skip("rendering needs a POSIX system", allow_module_level=True)

FAKES = "tests.fakes.transforms:"
SETTINGS = RenderSettings(dpi=36, page_timeout=20)
REFUSED = {"EPERM", "EACCES", "ENOSYS"}

needs_filters = pytest.mark.skipif(
    not old_kernel.available(), reason="seccomp filters are of Linux, on x86_64 and aarch64"
)


def render(cage: Cage, source: SourceFile) -> RenderedPage:
    cage.submit(RenderTask(source, (0,)))
    while not (pages := cage.poll(5, limit=1)):
        pass
    (page,) = pages
    assert isinstance(page, RenderedPage), page
    return page


@pytest.fixture(scope="module", params=[True, False], ids=["forked", "spawned"])
def attempts(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[tuple[str, ...], dict[str, str], Path]]:
    """A child's layers, how its attempts to get out ended, and the folder they were aimed at."""
    if request.param and sys.platform != "linux":
        pytest.skip("the fork server is for Linux")
    folder = tmp_path_factory.mktemp("outside")
    (folder / "existing").write_text("a secret")
    source = pdfs.saved(folder, "x.pdf", pdfs.text_pages(1))
    transform, target = FAKES + "escaping", str(folder)
    made = Cage(SETTINGS, transform=transform, transform_arg=target, fork_server=request.param)
    with made as cage:
        page = render(cage, source)
        assert page.views is not None
        yield cage.sandbox, json.loads(page.views.global_view.tobytes()), folder


def test_a_child_cannot_get_out(attempts: tuple[tuple[str, ...], dict[str, str], Path]) -> None:
    layers, ends, folder = attempts
    if SANDBOX not in layers:
        pytest.skip(f"this system has no seccomp filters for us; layers: {layers}")
    ends = {name: end for name, end in ends.items() if name != "secret"}
    assert set(ends.values()) <= REFUSED, ends
    assert sorted(path.name for path in folder.iterdir()) == ["existing", "x.pdf"]
    assert (folder / "existing").read_text() == "a secret"


def test_a_child_cannot_read_what_is_not_its_business(
    attempts: tuple[tuple[str, ...], dict[str, str], Path],
) -> None:
    layers, ends, _ = attempts
    if "landlock" not in layers:
        pytest.skip(f"this system has no Landlock; layers: {layers}")
    assert ends["secret"] in REFUSED


def test_what_a_child_prints_reaches_nobody(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.text_pages(1))
    for forked in (True, False) if sys.platform == "linux" else (False,):
        with Cage(SETTINGS, transform=FAKES + "talkative", fork_server=forked) as cage:
            render(cage, source)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "from the child" not in captured.err


HEADERS = (
    (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), "x86_64"),
    (Path("/usr/include/asm-generic/unistd.h"), "aarch64"),
)


@pytest.mark.parametrize(("header", "machine"), HEADERS, ids=["x86_64", "aarch64"])
def test_system_calls_have_the_kernels_numbers(header: Path, machine: str) -> None:
    if not header.is_file():
        pytest.skip(f"no {header}")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())
    numbers = {name: int(number) for name, number in found}
    numbers.setdefault("newfstatat", numbers.get("fstatat", -1))
    for name, number in seccomp.numbers(machine).items():
        assert numbers.get(name) == number, name


@pytest.mark.skipif(sys.platform != "linux", reason="groups are those of the fork server")
def test_every_child_has_a_group_of_its_own(tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.tinted_pages(20))
    with Cage(SETTINGS, transform=FAKES + "views") as cage:
        cage.submit(RenderTask(source, tuple(range(20))))
        while not cage.poll(5, limit=1):
            pass
        server = max(psutil.Process().children(), key=psutil.Process.create_time)
        (child,) = server.children()
        assert os.getpgid(child.pid) == child.pid
        assert os.getpgid(server.pid) != os.getpgid(0)


OLD = """
import json, sys
from pathlib import Path
from docr.errors import DocrError
from docr.pdf.cage import Cage, RenderSettings, RenderTask
from docr.types import SourceFile
path = Path(sys.argv[1])
source = SourceFile(path, path.parent, path.name)
with Cage(RenderSettings(dpi=36), transform="tests.fakes.transforms:views") as cage:
    assert cage.inspect(source).page_count == 1
    cage.submit(RenderTask(source, (0,)))
    while not (pages := cage.poll(5, limit=1)):
        pass
    print(type(pages[0]).__name__, *cage.sandbox)
strict = RenderSettings(dpi=36, require_sandbox=True)
def poll(cage):
    cage.submit(RenderTask(source, (0,)))
    cage.poll(20, limit=1)
with Cage(strict, transform="tests.fakes.transforms:views") as cage:
    for act in (Cage.check_sandbox, lambda cage: cage.inspect(source), poll):
        try:
            act(cage)
        except DocrError as error:
            print(type(error).__name__, error.exit_code, error)
"""


@needs_filters
def test_without_the_layers_pages_are_rendered_unless_a_sandbox_is_required(tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.text_pages(1))
    python = [sys.executable, "-m", "tests.fakes.old_kernel", sys.executable]
    done = subprocess.run(
        [*python, "-c", OLD, source.path], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    rendered, *refusals = done.stdout.splitlines()
    assert rendered == "RenderedPage no_new_privs"
    assert len(refusals) == 3
    for refusal in refusals:
        assert refusal.startswith(f"SandboxMissing {SandboxMissing.exit_code} --require-sandbox")


def test_a_sandbox_that_is_there_is_no_hindrance(tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.text_pages(1))
    strict = RenderSettings(dpi=36, require_sandbox=True)
    with Cage(strict, transform=FAKES + "views") as cage:
        try:
            cage.check_sandbox()
        except SandboxMissing as missing:
            pytest.skip(str(missing))
        render(cage, source)
