"""Batches without end, made while training goes on; nothing is stored.

A sample is a page with its labels; with pixels for the stages that see, without for the decoder's
own. All randomness comes from (seed, worker), so a leg is repeatable and workers never agree.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from docr.modes.mode import MODES, TOKEN_PX
from docr.modes.prepare import prepare_views
from docr.modes.prompt import prompt_text
from docr.settings import Task
from docr.types import U8
from scripts.train_mini.fonts import load_faces
from scripts.train_mini.labels import ViewLabels, count_lines, label_view, script_places
from scripts.train_mini.layout import Script, script_text
from scripts.train_mini.pages import PageMaker, PagePlan, stretched_plan
from scripts.train_mini.paint import paint, random_look
from scripts.train_mini.recipe import Recipe, StageRecipe
from scripts.train_mini.tokenizer import EOS_ID, PAD_ID, build_tokenizer

IGNORE = -100

POOL = 6
"""Batches that are made at once."""

Sample = tuple[Script, ViewLabels, U8 | None]


@dataclass(slots=True, eq=False)
class Batch:
    """B pages of n x m vision tokens, G glyph slots, T text tokens of the longest page.

    Attributes:
        pixels: u8 [B,3,S,S]; empty for the decoder's own stage.
        patches: i64 [B,4n,4m], classes.
        slots: i64 [B,n,m,G], classes.
        counts: i64 [B,n,m,bands,2], numbers of lines and characters in each band, -1: empty.
        prompt: i64 [P], the ids after the image, the same for all.
        text: i64 [B,T], with the end of sequence, padded.
        targets: i64 [B,T], the same with IGNORE for padding.
        place: i64 [B,T,2], vision token and slot of each text token, -1: none.
        written: i64 [B,T,2], numbers of its line and of itself in that; IGNORE for end and padding.
        characters: in all the texts.
    """

    pixels: Tensor
    patches: Tensor
    slots: Tensor
    counts: Tensor
    prompt: Tensor
    text: Tensor
    targets: Tensor
    place: Tensor
    written: Tensor
    characters: int

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        moved = {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in ((name, getattr(self, name)) for name in self.__slots__)
        }
        return Batch(**moved)


class Pages(IterableDataset[Batch]):
    """Batches of one stage.

    Args:
        recipe: which pages.
        stage: how many at once, and in which grids (none: the recipe's view, with pixels).
        seed: of everything.
        held_out: faces and text that training never sees.
        begun: samples that earlier legs have seen: how far the curriculum of grids is.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: StageRecipe,
        *,
        seed: int,
        held_out: bool = False,
        begun: int = 0,
    ) -> None:
        self.recipe, self.stage, self.seed, self.held_out = recipe, stage, seed, held_out
        self.begun = begun

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        rng = random.Random(f"{self.seed}/{worker.id if worker else 0}")
        faces = load_faces(self.recipe.data.fonts, held_out=self.held_out)
        maker = PageMaker(
            faces,
            rng,
            held_out=self.held_out,
            blocks=self.recipe.data.blocks,
        )
        self.tokenizer = build_tokenizer()
        samples = self.begun
        while True:
            yield from self._batches(maker, rng, self._grid(rng, samples))
            samples += POOL * self.stage.batch * (worker.num_workers if worker else 1)

    def _grid(self, rng: random.Random, samples: int) -> tuple[int, int]:
        """Rows and columns of the next batch: small grids first, later all, large ones oftener."""
        side = self.recipe.data.view_px // TOKEN_PX
        if not self.stage.grids:
            return side, side
        open_grids = self.stage.grids[: 1 + samples // self.stage.unlock]
        weights = range(1, len(open_grids) + 1)
        return rng.choices(open_grids, [weight**2 for weight in weights])[0]

    def _batches(
        self, maker: PageMaker, rng: random.Random, grid: tuple[int, int]
    ) -> Iterator[Batch]:
        """POOL batches of one task, pages of about the same length together: less padding."""
        task: Task = "markdown" if rng.random() < self.recipe.data.grounded else "ocr"
        size = self.stage.batch
        pool = [self._sample(maker, rng, grid, task) for _ in range(POOL * size)]
        pool.sort(key=lambda sample: len(sample[0]))
        starts = list(range(0, len(pool), size))
        rng.shuffle(starts)
        for start in starts:
            yield self._batch(pool[start : start + size], task)

    def _batch(self, samples: list[Sample], task: Task) -> Batch:
        _, after = prompt_text(task, None, None).split("<image>")
        prompt = self.tokenizer.encode(after, add_special_tokens=False).ids
        ids = [self._ids(script) for script, _, _ in samples]
        longest = _length(max(len(row) for row, _ in ids))
        text = np.full((len(ids), longest), PAD_ID, np.int64)
        place = np.full((len(ids), longest, 2), -1, np.int64)
        targets = np.full((len(ids), longest), IGNORE, np.int64)
        written = np.full((len(ids), longest, 2), IGNORE, np.int64)
        for row, ((tokens, owners), (script, labels, _)) in enumerate(
            zip(ids, samples, strict=True)
        ):
            text[row, : len(tokens)] = targets[row, : len(tokens)] = tokens
            places = script_places(script, labels)
            place[row, : len(owners)] = places[owners]
            written[row, : len(owners)] = count_lines(script)[owners]
        pixels = [pixels for _, _, pixels in samples if pixels is not None]
        return Batch(
            pixels=torch.from_numpy(np.stack(pixels)) if pixels else torch.empty(0),
            patches=_stack([labels.patches for _, labels, _ in samples]),
            slots=_stack([labels.slots for _, labels, _ in samples]),
            counts=_stack([labels.counts for _, labels, _ in samples]),
            prompt=torch.tensor(prompt),
            text=torch.from_numpy(text),
            targets=torch.from_numpy(targets),
            place=torch.from_numpy(place),
            written=torch.from_numpy(written),
            characters=sum(len(script) for script, _, _ in samples),
        )

    def _sample(
        self, maker: PageMaker, rng: random.Random, grid: tuple[int, int], task: Task
    ) -> Sample:
        data, (rows, columns) = self.recipe.data, grid
        full = rows == columns == data.view_px // TOKEN_PX
        while True:
            if full:
                plan = stretched_plan(
                    rng,
                    data.view_px,
                    data.em_px,
                    data.min_pitch_px,
                    two_columns=data.two_columns,
                    furniture=data.furniture,
                    dense=self.stage.dense,
                )
            else:
                width, height = columns * TOKEN_PX, rows * TOKEN_PX
                dense = rng.random() < self.stage.dense
                plan = PagePlan(
                    width, height, (1.0, 1.0), data.em_px, data.min_pitch_px, dense=dense
                )
            page = maker.make(plan)
            script = page.plain() if task == "ocr" else page.grounded()
            if script:
                break
        look = random_look(rng, turned=data.turned)
        labels = label_view(
            page, script, plan.scale, rows, columns, self.recipe.slots, turn=look.turn
        )
        if self.stage.grids:
            return script, labels, None
        long_side_px = rng.uniform(1.0, 1.5) * data.view_px
        resolution = long_side_px / max(page.width, page.height)
        pixels = paint(page, resolution, look, rng.randrange(1 << 30))
        return script, labels, prepare_views(pixels, MODES[data.mode]).global_view

    def _ids(self, script: Script) -> tuple[list[int], list[int]]:
        """Token ids with the end of sequence, and for each but the last its script character."""
        encoding = self.tokenizer.encode(script_text(script), add_special_tokens=False)
        owners = [start for start, _ in encoding.offsets]
        return [*encoding.ids, EOS_ID], owners


def _length(longest: int) -> int:
    """The length that texts are padded to: few of them, as a CPU compiles kernels for each."""
    step = 16 if longest <= 64 else 32 if longest <= 128 else 64
    return -(-longest // step) * step


def _stack(arrays: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays).astype(np.int64))


def batches(
    recipe: Recipe,
    stage: StageRecipe,
    *,
    seed: int,
    workers: int,
    held_out: bool = False,
    begun: int = 0,
) -> Iterator[Batch]:
    """Batches without end, made in `workers` processes (0: in this one)."""
    loader: DataLoader[Batch] = DataLoader(
        Pages(recipe, stage, seed=seed, held_out=held_out, begun=begun),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
    return iter(loader)
