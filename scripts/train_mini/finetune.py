"""Fine-tune any checkpoint in the official layout on a folder of pages and what they say.

    python -m scripts.train_mini.finetune MODEL_DIR PAIRS --out OUT --minutes 30 [--lora 16]

PAIRS holds an image (png, jpg, jpeg or webp) and a Markdown file of the same name for each page.
OUT/model becomes a checkpoint for `docr convert --model`. The same command again goes on where the
last one was stopped or killed; see docs/fine-tuning.md.

All weights are trained, or low-rank adapters (--lora). The loss is the cross-entropy of the
Markdown and the end of sequence; the balance of experts is left as it was trained. Batches follow
from the seed and from how many pages have been seen, so no random state needs to be kept.
"""

import argparse
import hashlib
import json
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import torch
from accelerate import Accelerator
from tokenizers import Tokenizer
from torch.nn.utils import parametrize

from docr.engine.detokenize import Detokenizer
from docr.engine.device import resolve_dtype
from docr.engine.model.config import ModelConfig
from docr.engine.model.load import load_model
from docr.errors import DocrError, InputError, UsageError
from docr.models.defaults import read_defaults
from docr.models.files import content_digest
from docr.modes.mode import MODES
from docr.modes.prepare import prepare_views
from docr.modes.prompt import Prompter, prompt_text
from docr.pdf.images import ImageDocument
from docr.pdf.settings import RenderSettings
from docr.settings import ModeName, Task
from docr.types import PageInputs, PageRef
from scripts.train_mini.attention import plain_attention
from scripts.train_mini.checkpoint import write_checkpoint
from scripts.train_mini.learner import Batch, Learner, Progress, State, check, collate, optimise
from scripts.train_mini.lora import add_adapters, merge_adapters
from scripts.train_mini.train import rate

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
TASKS = [task for task in get_args(Task) if task != "locate"]  # that one needs words of its own

SAVE_SECONDS, REPORT_SECONDS = 120.0, 20.0
CHECK_PAGES = 16
"""Most held-out pages that are read for a line of the report."""

PLAIN_UP_TO_PX = 640
"""On a CPU, larger views need the fused attention, which is slower but keeps no scores."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is asked for; see the command's help. One of `minutes` and `steps` is given."""

    model_dir: Path
    pairs: Path
    out: Path
    minutes: float | None = None
    steps: int | None = None
    mode: ModeName = "tiny"
    task: Task = "ocr"
    batch: int = 8
    rate: float = 3e-4
    lora: int | None = None
    held_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = (self.minutes, self.steps, self.batch, self.rate, self.lora)
        if any(size is not None and size <= 0 for size in sizes) or not 0 <= self.held_out < 1:
            raise UsageError("numbers must be above 0, and --held-out from 0 to below 1")

    def share(self, progress: Progress) -> float:
        """How much of the training is done; 1: all."""
        if self.steps is not None:
            return progress.step / self.steps
        assert self.minutes is not None, self
        return progress.seconds / (60 * self.minutes)


@dataclass(frozen=True, slots=True)
class Pair:
    """A page's image, and the ids that are to be read from it, the end of sequence included."""

    image: Path
    answer: list[int]


class PairReader:
    """Finds pairs and makes batches of them, with what `docr convert` uses for its pages."""

    def __init__(self, model_dir: Path, mode: ModeName, task: Task) -> None:
        tokenizer_file = model_dir / "tokenizer.json"
        self._prompter = Prompter(tokenizer_file)
        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self._mode, self._prompt = MODES[mode], prompt_text(task, None, None)
        self._context = ModelConfig.from_file(model_dir / "config.json").max_position_embeddings
        self.detokenizer = Detokenizer(tokenizer_file)

    def read(self, folder: Path) -> list[Pair]:
        """All pairs, by name; each image is looked at once, so that none fails later.

        Raises:
            UsageError: a page is incomplete, cannot be read, or is too long for the model.
        """
        pairs = []
        for image, text_file in find_files(folder):
            try:
                markdown = text_file.read_text(encoding="utf-8").strip()
                ids = self._tokenizer.encode(markdown, add_special_tokens=False).ids
                pair = Pair(image, [*ids, self.detokenizer.eos_id])
                length = len(self.prepare(pair).input_ids) + len(pair.answer)
            except (InputError, OSError, SyntaxError, ValueError) as error:
                raise UsageError(f"{image} or {text_file.name} is damaged: {error}") from None
            if length > self._context:
                raise UsageError(
                    f"{image}: {length:,} tokens with its Markdown; the model has room for "
                    f"{self._context:,}: cut the page in two"
                )
            pairs.append(pair)
        return pairs

    def prepare(self, pair: Pair) -> PageInputs:
        """The views and the prompt of a page."""
        ref = PageRef(pair.image, 0)
        with pair.image.open("rb") as file:
            pixels = ImageDocument(file, RenderSettings()).render(ref).pixels
        views = prepare_views(pixels, self._mode)
        return self._prompter.inputs(ref, views, self._mode, self._prompt)

    def batch(self, pairs: list[Pair]) -> Batch:
        """Prepare pages and put them together."""
        return collate([(self.prepare(pair), pair.answer) for pair in pairs])


def find_files(folder: Path) -> list[tuple[Path, Path]]:
    """Image and Markdown file of each page, by name.

    Raises:
        UsageError: there are none, or one is without the other.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    texts = {path.stem: path for path in files if path.suffix == ".md"}
    images: dict[str, Path] = {}
    for path in files:
        if path.suffix.lower() in IMAGE_SUFFIXES:
            if path.stem in images:
                raise UsageError(f"{path}: {images[path.stem].name} is the same page's image, too")
            images[path.stem] = path
    lonely = sorted(images.keys() ^ texts.keys())
    if lonely:
        name = lonely[0]
        lacks = f"{images[name].name} has no {name}.md" if name in images else f"{name}.md no image"
        raise UsageError(f"{folder}: incomplete pages, {len(lonely)} in all: {lacks}")
    if not images:
        raise UsageError(f"{folder}: no pages; put page.png and page.md there, and so on")
    return [(images[name], texts[name]) for name in sorted(images)]


@lru_cache(maxsize=2)
def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """The order in which an epoch, 0-based, goes through the pages."""
    return random.Random(f"{seed}/{epoch}").sample(range(count), count)


def split(pairs: list[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Pages to train on, and pages held out: at least one, unless none are asked for or left."""
    count = min(max(1, round(share * len(pairs))), len(pairs) - 1) if share else 0
    held = set(random.Random(seed).sample(range(len(pairs)), count))
    trained = [pair for index, pair in enumerate(pairs) if index not in held]
    return trained, [pairs[index] for index in sorted(held)]


def identity(settings: Settings, pairs: list[Pair]) -> dict[str, Any]:
    """What may not change between the calls with one OUT."""
    names = "/".join(pair.image.stem for pair in pairs)
    pages = f"{len(pairs)} ({hashlib.sha256(names.encode()).hexdigest()[:8]})"
    same = {name: getattr(settings, name) for name in ("mode", "task", "lora", "held_out", "seed")}
    return {"model": content_digest(settings.model_dir), "pages": pages, **same}


class Pace:
    """Does something now and then: every so many seconds, but for at most a tenth of the time."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._took, self._last = seconds, 0.0, time.monotonic()

    def keep(self, action: Callable[[], None]) -> None:
        """Act if it is time."""
        begin = time.monotonic()
        if begin - self._last >= max(self._seconds, 10 * self._took):
            action()
            self._last = time.monotonic()
            self._took = self._last - begin


def make_accelerator() -> Accelerator:
    """On CUDA devices or the CPU, with bf16 autocast where the device computes in it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = resolve_dtype("auto", device) == torch.bfloat16
    return Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if half else "no")


def finetune(settings: Settings) -> None:
    """Train until all is done, and write OUT/model.

    Raises:
        DocrError: the checkpoint, the pages or an earlier state are not as they must be.
    """
    accelerator = make_accelerator()
    device = accelerator.device
    reader = PairReader(settings.model_dir, settings.mode, settings.task)
    pairs = reader.read(settings.pairs)
    trained, held_out = split(pairs, settings.held_out, settings.seed)
    size = min(settings.batch, len(trained))
    torch.manual_seed(settings.seed)
    dtype = torch.bfloat16 if settings.lora else torch.float32
    learner = Learner(load_model(settings.model_dir, device=device, dtype=dtype))
    if settings.lora:
        add_adapters(learner.model, settings.lora)
    else:
        learner.requires_grad_(True)
    weights = [each for each in learner.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.rate, weight_decay=0.01, fused=True)
    settings.out.mkdir(parents=True, exist_ok=True)
    state = State(settings.out / "state.pt", learner, optimizer, identity(settings, pairs))
    progress = state.load()
    network, stepper = accelerator.prepare(learner, optimizer)
    recent: list[tuple[float, float]] = []  # losses and seconds since the last line

    def load(position: int) -> Batch:
        first = position + accelerator.process_index * size
        places = (divmod(first + k, len(trained)) for k in range(size))
        chosen = [epoch_order(len(trained), settings.seed, epoch)[at] for epoch, at in places]
        return reader.batch([trained[index] for index in chosen])

    def report() -> None:
        line: dict[str, float] = {"step": progress.step, "minutes": round(progress.seconds / 60, 2)}
        if recent:
            losses, seconds = (sum(values) for values in zip(*recent, strict=True))
            speed = len(recent) * size * accelerator.num_processes / seconds
            line |= {"loss": round(losses / len(recent), 4), "pages_s": round(speed, 2)}
            recent.clear()
        if held_out:
            with accelerator.autocast(), parametrize.cached():
                pages = (reader.batch([pair]).to(device) for pair in held_out[:CHECK_PAGES])
                line |= check(learner, reader.detokenizer, pages)
        print(json.dumps(line), flush=True)

    small = MODES[settings.mode].base_px <= PLAIN_UP_TO_PX
    saving, reporting = Pace(SAVE_SECONDS), Pace(REPORT_SECONDS)
    begin = time.monotonic() - progress.seconds
    with (
        ThreadPoolExecutor(max_workers=1) as pool,
        plain_attention(device) if small else nullcontext(),
    ):
        if accelerator.is_main_process:
            report()
        upcoming = pool.submit(load, progress.pages)
        while True:
            # The same on all processes, whose clocks differ.
            now = torch.tensor(settings.share(progress), device=device)
            share = accelerator.reduce(now, reduction="mean").item()
            if share >= 1:
                break
            batch = upcoming.result().to(device)
            progress.pages += size * accelerator.num_processes
            upcoming = pool.submit(load, progress.pages)
            for group in stepper.param_groups:
                group["lr"] = settings.rate * rate(progress.step, share, anneal=True)
            since = time.monotonic()
            loss = optimise(accelerator, network, stepper, batch)
            recent.append((loss, time.monotonic() - since))
            progress.step += 1
            progress.seconds = time.monotonic() - begin
            if accelerator.is_main_process:
                reporting.keep(report)
                saving.keep(lambda: state.save(progress))
        if accelerator.is_main_process:
            state.save(progress)
            report()
    if accelerator.is_main_process:
        merge_adapters(learner.model)
        write_checkpoint(
            learner.model,
            settings.model_dir,
            settings.out / "model",
            name=settings.out.resolve().name,
            mode=settings.mode,
            task=settings.task,
            preview=read_defaults(settings.model_dir).preview,
        )
    accelerator.end_training()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model_dir", type=Path, help="the checkpoint to begin with")
    parser.add_argument("pairs", type=Path, help="folder of images and Markdown files")
    parser.add_argument("--out", type=Path, required=True, help="folder of the state and the model")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="of all calls with this OUT together")
    length.add_argument("--steps", type=int, help="so many instead")
    parser.add_argument("--mode", choices=list(MODES), default="tiny")
    parser.add_argument("--task", choices=TASKS, default="ocr")
    parser.add_argument("--batch", type=int, default=8, help="pages of a step and process")
    parser.add_argument("--rate", type=float, default=3e-4, help="the highest learning rate")
    parser.add_argument("--lora", type=int, metavar="RANK", help="train adapters of this rank")
    parser.add_argument("--held-out", type=float, default=0.1, help="share of the pages")
    parser.add_argument("--seed", type=int, default=0)
    try:
        finetune(Settings(**vars(parser.parse_args())))
    except DocrError as error:
        raise SystemExit(f"finetune: {error}") from None


if __name__ == "__main__":
    main()
