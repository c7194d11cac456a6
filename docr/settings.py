"""Everything a run can be told, as one frozen value made once at the edge."""

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

from docr.errors import UsageError

Task = Literal["markdown", "ocr", "image", "figure", "describe", "locate"]
ModeName = Literal["tiny", "small", "base", "large", "gundam", "gundam-m"]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]
Quantize = Literal["none", "int8"]

DTYPE_ALIASES: dict[str, Dtype] = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one run.

    Attributes:
        model: a name of the catalogue or a folder; None: the one chosen by `docr models use`.
        revision: of a model of the hub; None: the pinned one.
        engine: "MODULE:NAME" of an engine factory instead of the model (tests).
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        dtype, quantize: of weights and what is computed; "int8" rounds the decoder's weights to 8
            bits, on a CPU.
        gpus: how many devices (ranks) to use; None: all there are for "auto" and "cuda".
        batch_size: most pages decoded at once; None: as memory allows.
        mode, max_tiles: how much of the page the model sees; max_tiles is for the tiled modes.
        task, query, prompt: what it is asked; `prompt` overrides `task`; `query` is for "locate".
            A mode or task of None is the model's to choose, see `completed`.
        no_repeat_ngram, ngram_window: the n-gram rule over generated ids; 0 switches it off.
        max_tokens: most tokens generated a page; None: what the context leaves.
        loop_stop: stop a page that repeats itself.
        drafts: guess from a page's text layer what the model will write, and have it check many
            tokens at once; faster, with the same text.
        header_footer: keep page furniture (headers, footers, page numbers) in the Markdown.
        pages: "1-3,7,10-", 1-based; None: all.
        include, exclude: glob patterns on the path below its root.
        follow_links: read what symbolic links lead to outside the folder that is walked.
        max_file_mib: larger files are not read, in MiB.
        password: for encrypted documents.
        dpi: rendering resolution; None: what the mode needs.
        page_timeout: seconds a page may take to render.
        page_memory: gigabytes of address space of a rendering process, besides the file it reads.
        max_pixels: most pixels of a rendered page; None: what the mode can use.
        max_image_pixels: most pixels that a page image may declare.
        max_aspect: most that a page's long side may be of its short one.
        max_content_mib: a page whose drawing instructions unpack to more fails, in MiB.
        max_pages_per_file: a file that has, or claims, more fails.
        require_sandbox: refuse to run where the system cannot lock up rendering processes.
        stall_timeout: seconds after which a process with a device that gives no sign of life, and
            has pages in work, is replaced.
        render_workers: rendering processes; None: from the number of cores.
        overwrite, retry_failed, fail_fast, max_failures, strict: see `docr convert --help`.
        keep_tokens: write all generated ids into the record.
    """

    model: str | None = None
    revision: str | None = None
    engine: str | None = None
    device: str = "auto"
    dtype: Dtype = "auto"
    quantize: Quantize = "none"
    gpus: int | None = None
    batch_size: int | None = None
    mode: ModeName | None = None
    max_tiles: int = 9
    task: Task | None = None
    query: str | None = None
    prompt: str | None = None
    no_repeat_ngram: int = 30
    ngram_window: int = 90
    max_tokens: int | None = None
    loop_stop: bool = True
    drafts: bool = True
    header_footer: bool = True
    pages: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    follow_links: bool = False
    max_file_mib: int = 4096
    password: str | None = None
    dpi: float | None = None
    page_timeout: float = 30.0
    page_memory: float = 4.0
    max_pixels: int | None = None
    max_image_pixels: int = 400_000_000
    max_aspect: float = 200.0
    max_content_mib: int = 256
    max_pages_per_file: int = 20_000
    require_sandbox: bool = False
    stall_timeout: float = 600.0
    render_workers: int | None = None
    overwrite: bool = False
    retry_failed: bool = False
    fail_fast: bool = False
    max_failures: int | None = None
    strict: bool = False
    keep_tokens: bool = False

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if name in MODEL_SETTINGS and getattr(self, name) is None:
                continue
            if getattr(self, name) not in get_args(known):
                choices = ", ".join(get_args(known))
                raise UsageError(f"--{name} is one of {choices}; not {getattr(self, name)!r}")
        if not 2 <= self.max_tiles <= 9:
            raise UsageError(f"--max-tiles is 2 to 9, not {self.max_tiles}")
        if self.task == "locate" and not self.query and self.prompt is None:
            raise UsageError("--task locate needs --query TEXT: what to look for")
        if self.query and self.task != "locate":
            raise UsageError("--query is for --task locate only")
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} is 1 or more, not {value}")
        for name in ("no_repeat_ngram", "ngram_window"):
            if getattr(self, name) < 0:
                raise UsageError(f"--{name.replace('_', '-')} is 0 (off) or more")
        for name in ("page_timeout", "stall_timeout"):
            value = getattr(self, name)
            if value <= 0:
                raise UsageError(f"--{name.replace('_', '-')} is a time in seconds, not {value:g}")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                option = name.replace("_", "-")
                raise UsageError(f"--{option} is {low} to {high}, not {value:g}")

    def completed(self, *, mode: ModeName | None, task: Task | None) -> "Settings":
        """The same with a mode and a task: the model's, and without a wish of it DeepSeek-OCR's."""
        return dataclasses.replace(
            self, mode=self.mode or mode or "gundam", task=self.task or task or "markdown"
        )

    def text_settings(self) -> dict[str, str | int | float | bool | None]:
        """The settings that change the text; batch size, device, ranks and verbosity do not."""
        assert self.mode is not None and self.task is not None, "not completed"
        return {name: getattr(self, name) for name in TEXT_SETTINGS}


_CHOICES = {"mode": ModeName, "task": Task, "dtype": Dtype, "quantize": Quantize}
_COUNTS = (
    "gpus",
    "batch_size",
    "max_tokens",
    "max_image_pixels",
    "max_content_mib",
    "max_pages_per_file",
    "max_file_mib",
    "render_workers",
    "max_failures",
)
_RANGES = {
    "dpi": (18, 1200),
    "page_memory": (2, 1024),  # an idle child has most of the first gigabyte
    "max_pixels": (10_000, 400_000_000),
    "max_aspect": (1, 1000),
}

MODEL_SETTINGS = ("mode", "task")
"""What a checkpoint's docr.json may choose where nobody else does."""

TEXT_SETTINGS = (
    "mode",
    "max_tiles",
    "task",
    "query",
    "prompt",
    "no_repeat_ngram",
    "ngram_window",
    "max_tokens",
    "loop_stop",
    "header_footer",
    "dpi",
    "max_pixels",
)
"""Together with the model, its revision and precision these make up a record's fingerprint."""

assert set(TEXT_SETTINGS) <= {field.name for field in dataclasses.fields(Settings)}
