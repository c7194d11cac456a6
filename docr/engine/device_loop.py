"""Decoding without the host: several steps, drafts and their checking included, on the device.

One step is tensor code of fixed shapes, from the last tokens to the next ones: guess, embed, run
the layers, ban repeated n-grams, pick, compare with the guess, append, note who is finished. On a
CUDA device it is captured as a graph for each number of rows and replayed, so that the host does
nothing between STEPS of them. Without capture the same code runs step by step.

Shapes: B rows, k drafted tokens, W tokens looked back at, L tokens of a text layer, V vocabulary.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from docr.engine.blocks import BlockCache, Prefilling
from docr.engine.device_drafts import follow, propose
from docr.engine.model.deepseek_ocr import DeepseekOCR
from docr.engine.sampling import NgramRule, Picks, ban_repeats
from docr.engine.sequence import Sequence

STEPS = 8
"""Steps between two contacts with the host; a page that ends earlier idles for the rest."""

DRAFT = 4
"""Tokens guessed in a step with drafts. By arithmetic, not measured: with 256 rows an H200 computes
five tokens a row in about the time in which it reads their keys and values."""

WORTHWHILE = 1.3
"""Tokens that a step with drafts must bring a row, on average; with fewer, steps without them are
faster. An estimate for a GPU, to be measured there."""

PAUSE = 16
"""Calls without drafts after they were not worthwhile."""

ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512)
"""Numbers of rows that graphs are made for; pages take the least that holds them."""

LOOK_BACK = 64
"""Tokens of its own text, at least, in which a row's drafts are looked for."""

LAYER_TOKENS = 4096
"""Tokens of a text layer that are looked at; what lies behind them is not guessed."""

NOTHING = -1
"""In place of a token id: there is none."""


@dataclass(slots=True, eq=False)
class Rows:
    """What the steps read and write, all on the device; replaced in place, never by new tensors.

    Attributes:
        recent: i64 [B,W], the last tokens written, at the right end; NOTHING before the first.
        position: i64 [B], of the last token in its sequence.
        room: i64 [B], tokens that may still be written.
        done: bool [B]: ended, or no page.
        table: i32 [B,M], see BlockCache.table.
        layer: i64 [B,L], ids of the text layer, then NOTHING.
        place: i64 [B], where in the layer the text has come to.
        blind: i64 [B], tokens since it was found there.
        ids: i64 [B,1+most], written by these steps; logprobs: fp32 of them. The last column takes
            what is not kept.
        count: i64 [B], how many.
        drafted, accepted: i64 [B], guessed tokens and those that came true.
        pages: whose text layer each row of `layer` holds.
    """

    recent: Tensor
    position: Tensor
    room: Tensor
    done: Tensor
    table: Tensor
    layer: Tensor
    place: Tensor
    blind: Tensor
    ids: Tensor
    logprobs: Tensor
    count: Tensor
    drafted: Tensor
    accepted: Tensor
    pages: list[Sequence | None]

    def update(self, **values: Tensor) -> None:
        """Overwrite tensors."""
        for name, value in values.items():
            getattr(self, name).copy_(value)


class DeviceLoop:
    """Takes all running pages some tokens further; implements runner.Loop.

    Args:
        model, cache: what computes, and where it keeps keys and values.
        undecodable: bool [V], ids without a token.
        ngrams: what must not be repeated.
        eos_id: ends a page.
        capture: replay captured graphs; needs a CUDA device.
    """

    steps = STEPS
    ahead = STEPS * (1 + DRAFT) + DRAFT  # what the last step's drafts touch, too

    def __init__(
        self,
        model: DeepseekOCR,
        cache: BlockCache,
        *,
        undecodable: Tensor,
        ngrams: NgramRule,
        eos_id: int,
        capture: bool,
    ) -> None:
        self._model, self._cache = model, cache
        self._undecodable, self._ngrams, self._eos_id = undecodable, ngrams, eos_id
        self.capture = capture
        self._device = undecodable.device
        self._exempt = torch.tensor(sorted(ngrams.exempt), device=self._device)
        self._window = max(LOOK_BACK, ngrams.window)
        self._rows: dict[int, Rows] = {}
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
        self._yield = float(1 + DRAFT)  # tokens a row that steps with drafts have brought lately
        self._pause = 0

    def arrange(self, running: list[Sequence], row_length: int) -> None:
        """Give the running pages blocks for the next call, and take back what others had."""
        self._cache.arrange(running, self.ahead)

    def prefilling(self, pages: list[Sequence]) -> Prefilling:
        """The cache as a prefill of these pages sees it."""
        return self._cache.prefilling(pages)

    def decode(self, pages: list[Sequence]) -> list[Picks]:
        """What follows each page's last token: at least one token, and all in order."""
        drafts = DRAFT if self._drafting(pages) else 0
        count = rows_for(len(pages))
        rows = self._prepare(pages, count)
        for _ in range(STEPS):
            self._step(rows, drafts)
        return self._results(pages, rows, drafts)

    def _drafting(self, pages: list[Sequence]) -> bool:
        if self._pause:
            self._pause -= 1
            return False
        return any(page.drafter is not None for page in pages)

    def _prepare(self, pages: list[Sequence], count: int) -> Rows:
        """Write what the steps start from."""
        rows = self._rows.get(count)
        if rows is None:
            rows = self._rows[count] = self._make_rows(count)
        recent = np.full((count, self._window), NOTHING, np.int64)
        numbers = np.zeros((4, count), np.int64)  # position, room, place, blind
        for row, page in enumerate(pages):
            last = page.token_ids[-self._window :]
            recent[row, self._window - len(last) :] = last
            numbers[:2, row] = page.length - 1, page.max_new_tokens - len(page.token_ids)
            if page.drafter is not None:
                if rows.pages[row] is not page:
                    ids = page.drafter.layer[: LAYER_TOKENS - 1]  # NOTHING ends it
                    rows.layer[row] = NOTHING
                    rows.layer[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
                    rows.pages[row] = page
                blind = len(page.token_ids) - page.drafter.written
                numbers[2:, row] = page.drafter.place + blind, blind
        starts = dict(
            zip(("position", "room", "place", "blind"), self._moved(numbers), strict=True)
        )
        rows.update(
            recent=self._moved(recent),
            done=starts["room"] < 1,  # rows without a page have none
            table=self._moved(self._cache.table(pages, count)),
            **starts,
        )
        for tensor in (rows.count, rows.drafted, rows.accepted):
            tensor.zero_()
        return rows

    def _make_rows(self, count: int) -> Rows:
        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(count, *shape, dtype=dtype, device=self._device)

        most = 1 + STEPS * (1 + DRAFT)
        return Rows(
            recent=zeros(self._window),
            position=zeros(),
            room=zeros(),
            done=zeros(dtype=torch.bool),
            table=zeros(self._cache.row_blocks, dtype=torch.int32),
            layer=zeros(LAYER_TOKENS) + NOTHING,
            place=zeros(),
            blind=zeros(),
            ids=zeros(most),
            logprobs=zeros(most, dtype=torch.float32),
            count=zeros(),
            drafted=zeros(),
            accepted=zeros(),
            pages=[None] * count,
        )

    def _moved(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor

    def _results(self, pages: list[Sequence], rows: Rows, drafts: int) -> list[Picks]:
        """Bring the tokens to the host, and note how well the drafts did."""
        names = ("count", "drafted", "accepted", "place", "blind")
        numbers = torch.stack([getattr(rows, name) for name in names]).tolist()
        ids, logprobs = rows.ids.tolist(), rows.logprobs.tolist()
        found = []
        steps = tokens = 0
        for row, page in enumerate(pages):
            count, drafted, accepted, place, blind = (values[row] for values in numbers)
            found.append(Picks(ids[row][:count], logprobs[row][:count]))
            tokens += count
            steps += count - accepted
            if page.drafter is not None:
                page.drafter.count(drafted, accepted)
                page.drafter.place = place - blind
                page.drafter.written = len(page.token_ids) + count - blind
        if drafts:
            self._yield = 0.8 * self._yield + 0.2 * tokens / max(1, steps)
            if self._yield < WORTHWHILE:
                self._pause, self._yield = PAUSE, float(1 + DRAFT)
        return found

    def _step(self, rows: Rows, drafts: int) -> None:
        if not self.capture:
            self._compute(rows, drafts)
            return
        key = (len(rows.count), drafts)
        if key not in self._graphs:
            self._graphs[key] = self._captured(rows, drafts)
        self._graphs[key].replay()

    def _captured(self, rows: Rows, drafts: int) -> torch.cuda.CUDAGraph:
        """The step as a graph. Capturing computes nothing; warming up does, and is undone."""
        tensors = {field.name: getattr(rows, field.name) for field in fields(Rows)}
        before = {name: each.clone() for name, each in tensors.items() if name != "pages"}
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(2):  # kernels are compiled and libraries set up outside a capture
                self._compute(rows, drafts)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # All graphs run one after the other, so they can share one memory.
        pool = next(iter(self._graphs.values())).pool() if self._graphs else None
        with torch.cuda.graph(graph, pool=pool):
            self._compute(rows, drafts)
        rows.update(**before)
        return graph

    def _compute(self, rows: Rows, drafts: int) -> None:
        """One step of all rows."""
        recent, model = rows.recent, self._model
        draft = propose(rows.layer, recent, rows.place, rows.blind, drafts)  # B,k
        index = torch.arange(1 + drafts, device=self._device)
        positions = rows.position[:, None] + index
        ids = torch.cat((recent[:, -1:], draft), dim=1).clamp(min=0)
        cache = self._cache.decoding(rows.table, positions)
        logits = model.logits(model(model.embed(ids), positions, cache))  # B,1+k,V
        best, logprobs = self._pick(logits, torch.cat((recent, draft), dim=1))

        right = (best[:, :-1] == draft).long().cumprod(1)
        last = (best == self._eos_id) | ~logprobs.isfinite()
        before = last.long().cumsum(1) - last.long()  # ends among the tokens before
        kept = index <= right.sum(1, keepdim=True)
        kept &= (before == 0) & (index < rows.room[:, None]) & ~rows.done[:, None]
        count = kept.sum(1)

        behind = rows.ids.shape[1] - 1
        at = torch.where(kept, rows.count[:, None] + index, behind)
        rows.ids.scatter_(1, at, best)
        rows.logprobs.scatter_(1, at, logprobs)
        guessed = (draft != NOTHING) & ~rows.done[:, None]
        rows.drafted += guessed.sum(1)
        rows.accepted += (count - 1).clamp(min=0)
        place, blind = follow(rows.layer, recent, rows.place, rows.blind, count)
        written = torch.cat((recent, best), dim=1)
        window = torch.arange(recent.shape[1], device=self._device) + count[:, None]
        rows.update(
            recent=written.gather(1, window),
            position=rows.position + count,
            room=rows.room - count,
            count=rows.count + count,
            done=rows.done | (kept & last).any(1) | (rows.room <= count),
            place=place,
            blind=blind,
        )

    def _pick(self, logits: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest allowed ids [B,1+k] and their log-probabilities; see sampling.pick.

        Args:
            logits: fp32 [B,1+k,V]; overwritten.
            texts: i64 [B,W+k]: what precedes the last column's token, and so on back.
        """
        V, W = logits.shape[-1], texts.shape[1] - logits.shape[1] + 1
        logits = logits.view(-1, V).masked_fill_(self._undecodable, -torch.inf)
        total = logits.logsumexp(-1)
        windows = texts.unfold(1, W, 1).flatten(0, 1)  # B,1+k,W -> rows,W
        ban_repeats(logits, windows, self._ngrams, self._exempt)
        values, ids = logits.max(-1)
        shape = (len(texts), -1)
        return ids.view(shape), (values - total).view(shape)


def rows_for(pages: int) -> int:
    """The least number of rows that holds so many pages."""
    return next((size for size in ROWS if size >= pages), pages)
