"""`docr doctor`: whether this machine can do the work, and what is missing."""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from ctypes import CDLL
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from docr import __version__
from docr.cli.messages import emit
from docr.errors import DocrError, ModelError
from docr.escape import escaped
from docr.models.catalogue import FULL_MODEL
from docr.models.choice import chosen_model
from docr.models.defaults import CheckpointDefaults
from docr.models.files import ModelFiles, resolve
from docr.pdf.settings import SANDBOX

_PACKAGES = (
    "torch",
    "accelerate",
    "safetensors",
    "tokenizers",
    "huggingface_hub",
    "pymupdf",
    "pypdfium2",
    "pillow",
    "numpy",
    "pydantic",
    "typer",
)
_OPTIONAL = {"pypdfium2": "the extra pdfium, for files that MuPDF cannot open"}

# DeepSeek-OCR: parameters (its safetensors index), and 12 layers of keys and values of 1280 each.
_PARAMETERS = 3_336_106_240
_CACHE_VALUES_PER_TOKEN = 12 * 2 * 1280
_TEXT_TOKENS = 1500  # of a full page; for estimates only
_WORKING_BYTES = 2_000_000_000  # activations of a batch of views; roughly
_MIN_OPEN_FILES = 512

# One page, 200 x 100 points, "docr" in Helvetica: no file of ours is needed.
_TEST_PAGE = b"""%PDF-1.4
1 0 obj <</Type/Catalog/Pages 2 0 R>> endobj
2 0 obj <</Type/Pages/Kids[3 0 R]/Count 1>> endobj
3 0 obj <</Type/Page/Parent 2 0 R/MediaBox[0 0 200 100]/Contents 4 0 R
/Resources<</Font<</F 5 0 R>>>>>> endobj
4 0 obj <</Length 39>> stream
BT /F 36 Tf 60 40 Td (docr test) Tj ET
endstream endobj
5 0 obj <</Type/Font/Subtype/Type1/BaseFont/Helvetica>> endobj
trailer <</Root 1 0 R/Size 6>>
%%EOF
"""


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, how it is, and what to do about it."""

    name: str
    state: Literal["ok", "warn", "fail"]
    detail: str


def doctor(
    no_model: Annotated[
        bool, typer.Option("--no-model", help="Do not load the model for the test page.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check versions, devices, memory, weights and limits, and try a page.

    Exits 7 where a run could not work.
    """
    checks = []
    for check in _examine(no_model=no_model):
        checks.append(check)
        if not as_json:
            emit(f"{check.state:<4}  {check.name}: {escaped(check.detail)}\n")
    failed = any(check.state == "fail" for check in checks)
    if as_json:
        content = {"ok": not failed, "checks": [asdict(check) for check in checks]}
        emit(json.dumps(content, indent=2) + "\n")
    raise typer.Exit(ModelError.exit_code if failed else 0)


def _examine(*, no_model: bool) -> Iterator[Check]:
    yield _system()
    yield from _packages()
    yield from _devices()
    model = _find_model()
    yield _weights(model)
    yield _hub()
    yield from _room()
    yield from _limits()
    yield _resizing()
    yield from _rendering()
    if isinstance(model, ModelFiles) and not no_model:
        yield _recognition(model.defaults)


def _system() -> Check:
    detail = f"docr {__version__}, Python {platform.python_version()}, {platform.platform()}"
    return Check("system", "ok", f"{detail}, {os.cpu_count()} cores")


def _packages() -> Iterator[Check]:
    versions = []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            if name in _OPTIONAL:
                yield Check("packages", "warn", f"no {name}: {_OPTIONAL[name]}")
            else:
                yield Check("packages", "fail", f"no {name}: pip install --upgrade docr-cli")
    yield Check("packages", "ok", ", ".join(versions))


def _devices() -> Iterator[Check]:
    """The devices, and what fits the best of them."""
    from docr.engine.device import free_bytes, resolve_device, resolve_dtype

    names = _nvidia_names()
    try:
        best = resolve_device("auto")
    except DocrError as error:
        yield Check("devices", "fail", str(error))
        return
    found = [best]
    while best.type == "cuda":
        try:
            device = resolve_device(f"cuda:{len(found)}")
        except DocrError:
            break
        found.append(device)
    if best.type == "cuda":
        found = [resolve_device(f"cuda:{index}") for index in range(len(found))]
    for index, device in enumerate(found):
        name = f" {names[index]}" if device.type == "cuda" and index < len(names) else ""
        dtype = str(resolve_dtype("auto", device)).removeprefix("torch.")
        free = free_bytes(device)
        yield Check("device", "ok", f"{device}{name}, {free / 1e9:.1f} GB free, {dtype}")
    if best.type == "cpu":
        yield _kernels()
    value_bytes = resolve_dtype("auto", best).itemsize
    yield _what_fits(free_bytes(best), value_bytes)


def _kernels() -> Check:
    """Whether docr's own kernels for CPUs can be compiled and loaded."""
    from docr.engine.native.library import has_amx, load

    def form(loaded: CDLL) -> str:
        return " and its matrix unit (AMX)" if has_amx(loaded) else ""

    return _compiled("kernels", load, "decoding takes about twice as long", form)


def _resizing() -> Check:
    """The same of what resizes pages."""
    from docr.modes.resample import CODE

    return _compiled("resizing", CODE.load, "Pillow does it, in eight times the time")


def _compiled(
    name: str,
    load: Callable[[Path], CDLL],
    without: str,
    form: Callable[[CDLL], str] = lambda loaded: "",
) -> Check:
    """Whether a part in C can be had, and in which form."""
    from docr.compiled import Unavailable, cache_folder

    try:
        which = form(load(cache_folder()))
    except Unavailable as reason:
        return Check(name, "warn", f"{without}: {reason}")
    return Check(name, "ok", f"compiled for this CPU{which}, kept in {cache_folder()}")


def _nvidia_names() -> list[str]:
    """Names and driver of NVIDIA's devices, where its tool is installed."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.replace(", ", ", driver ") for line in result.stdout.splitlines()]


def _what_fits(free: int, value_bytes: int) -> Check:
    """Estimate how many pages of each mode fit beside the weights of DeepSeek-OCR."""
    from docr.modes.mode import MODES

    left = free - _PARAMETERS * value_bytes - _WORKING_BYTES
    if left <= 0:
        needed = (_PARAMETERS * value_bytes + _WORKING_BYTES) / 1e9
        state: Literal["warn", "fail"] = "fail" if chosen_model() == FULL_MODEL else "warn"
        return Check("memory", state, f"DeepSeek-OCR needs about {needed:.0f} GB of it")
    pages = {}
    for name, mode in MODES.items():
        grid = (1, 1) if mode.tile_px is None else (1, mode.max_tiles)
        tokens = mode.num_vision_tokens(grid) + _TEXT_TOKENS
        pages[name] = left // (tokens * _CACHE_VALUES_PER_TOKEN * value_bytes)
    text = ", ".join(f"{name} {count}" for name, count in pages.items())
    return Check(
        "memory", "ok", f"room for about so many full pages of DeepSeek-OCR at once: {text}"
    )


def _find_model() -> ModelFiles | DocrError:
    """The chosen model, or why it cannot be used."""
    try:
        return resolve(chosen_model())
    except DocrError as error:
        return error


def _weights(model: ModelFiles | DocrError) -> Check:
    if isinstance(model, DocrError):
        return Check("weights", "fail", str(model))
    place = f"{model.name} at {model.revision} in {model.directory}"
    preview = model.defaults.preview
    return Check("weights", "ok", place if preview is None else f"{place}, a preview: {preview}")


def _hub() -> Check:
    from docr.models.files import hub_state

    return Check("hub", "ok", hub_state())


def _room() -> Iterator[Check]:
    for name, path in (("here", Path.cwd()), ("temporary files", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(path).free
        state: Literal["ok", "warn"] = "ok" if free > 1e9 else "warn"
        yield Check("disk", state, f"{name} ({path}): {free / 1e9:.1f} GB free")


def _limits() -> Iterator[Check]:
    if sys.platform == "win32":
        return
    import resource

    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)  # a run raises the lower one
    if files != resource.RLIM_INFINITY and files < _MIN_OPEN_FILES:
        yield Check("limits", "warn", f"only {files} open files; try: ulimit -Hn 4096")
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if space != resource.RLIM_INFINITY:
        yield Check(
            "limits", "warn", f"address space is limited to {space / 1e9:.0f} GB (ulimit -v)"
        )
    yield Check("limits", "ok", f"{files} open files")


def _rendering() -> Iterator[Check]:
    """Render the test page in a child, as a run does; how well that child is locked up."""
    from docr.pdf.cage import RenderTask
    from docr.rendering import open_cage
    from docr.settings import Settings
    from docr.types import PageFailure, SourceFile

    with tempfile.TemporaryDirectory(prefix="docr-") as folder:
        path = Path(folder) / "test.pdf"
        path.write_bytes(_TEST_PAGE)
        source = SourceFile(path, path.parent, path.name, named=True)
        try:
            with open_cage(Settings(mode="tiny"), workers=1) as cage:
                cage.submit(RenderTask(source, (0,)))
                while not (pages := cage.poll(1.0, limit=1)):
                    pass
        except DocrError as error:
            yield Check("rendering", "fail", str(error))
            return
    page = pages[0]
    if isinstance(page, PageFailure):
        yield Check("rendering", "fail", f"{page.code}: {page.message}")
    else:
        detail = f"{page.image.rendered_by}, a page in {page.seconds:.2f} s"
        yield Check("rendering", "ok", detail)
    yield _sandbox(cage.sandbox)


def _sandbox(layers: tuple[str, ...]) -> Check:
    """What the processes that render cannot do, by the layers that took effect in one of them."""
    found = f"layers: {', '.join(layers) or 'none'}"
    if SANDBOX not in layers:
        missing = "rendering processes could use the network, write files and start programs"
        return Check("sandbox", "warn", f"{missing}; {found}")
    denied = "rendering processes have no network, write no files and start no programs"
    return Check("sandbox", "ok", f"{denied}; {found}")


def _recognition(defaults: CheckpointDefaults) -> Check:
    """Recognise the test page with the chosen model, as cheaply as it can."""
    from docr.api import iter_pages

    mode, task = defaults.mode or "tiny", defaults.task or "ocr"

    with tempfile.TemporaryDirectory(prefix="docr-") as folder:
        path = Path(folder) / "test.pdf"
        path.write_bytes(_TEST_PAGE)
        begin = time.monotonic()
        try:
            pages = list(iter_pages([path], mode=mode, task=task, max_tokens=32, gpus=1))
        except DocrError as error:
            return Check("recognition", "fail", str(error))
    text = pages[0].markdown if pages else None
    read = text is not None and "docr" in text.lower()
    seconds = time.monotonic() - begin
    return Check(
        "recognition",
        "ok" if read else "warn",
        f'"docr test" was read as {text!r}, {seconds:.1f} s with loading',
    )
