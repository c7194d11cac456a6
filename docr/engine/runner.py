"""One device: the model, its KV cache, and the three things done with them, in batches.

What runs together, and when, is decided in engine.py and scheduler.py.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from docr.engine.blocks import BlockCache
from docr.engine.cache import CacheSize, KVCache, bytes_per_token
from docr.engine.config import EngineConfig
from docr.engine.detokenize import Detokenizer
from docr.engine.device import (
    device_errors,
    free_bytes,
    release_memory,
    resolve_device,
    resolve_dtype,
)
from docr.engine.device_loop import DeviceLoop
from docr.engine.host_loop import HostLoop
from docr.engine.model import decoder
from docr.engine.model.deepseek_ocr import DeepseekOCR
from docr.engine.model.layout import lay_out
from docr.engine.model.load import load_model
from docr.engine.sampling import NgramRule, Picks, pick
from docr.engine.scheduler import BLOCK, HEADROOM
from docr.engine.sequence import Sequence, View
from docr.errors import OutOfMemory

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a kind of device is given to do at once, to begin with.

    A CPU is given little, so that no step takes long: it gains nothing from large batches before
    decoding, and a run must be able to stop between two steps.

    Attributes:
        pages: most pages decoded at once where memory allows.
        vision_pixels, prefill_tokens: in a batch; a single page may exceed them.
        memory_share: of the memory free after loading, for the KV cache.
    """

    pages: int
    vision_pixels: int
    prefill_tokens: int
    memory_share: float


LIMITS = {
    "cuda": Limits(256, 16 << 20, 8192, 0.9),
    "mps": Limits(16, 2 << 20, 2048, 0.5),
    "cpu": Limits(32, 1 << 20, 1024, 0.5),
}


class Loop(Protocol):
    """The KV cache, and how running pages are decoded with it.

    Attributes:
        steps: decoding steps in a call.
        ahead: tokens beyond its length that a page needs room for before a call.
    """

    steps: int
    ahead: int

    def arrange(self, running: list[Sequence], row_length: int) -> None:
        """Lay out the cache for these pages; rows of this length where it has rows."""
        ...

    def prefilling(self, pages: list[Sequence]) -> decoder.KVCache:
        """The cache as a prefill of these pages sees it."""
        ...

    def decode(self, pages: list[Sequence]) -> list[Picks]:
        """The next tokens of each page, one at least. `pages` are all that run, in order."""
        ...


class Runner:
    """Runs the model for pages; knows nothing of waiting lines.

    Attributes:
        device, dtype: where and in what it computes.
        limits: what to give it at once.
        context: most tokens of prompt and text together.
        max_pages, cache_tokens: what the KV cache is made for.
        in_blocks: whether pages take blocks of the cache, or rows of one length.

    Args:
        model: is taken over; on a CPU its weights are laid out anew.
        on_device: decode in steps that need no host, with a cache in blocks; None: on CUDA devices.
    """

    def __init__(
        self,
        model: DeepseekOCR,
        detokenizer: Detokenizer,
        config: EngineConfig,
        *,
        on_device: bool | None = None,
    ) -> None:
        lay_out(model, config.quantize)
        weights = next(model.parameters())
        self.device, self.dtype = weights.device, weights.dtype
        self.limits = LIMITS[self.device.type]
        self.context = model.config.max_position_embeddings
        self._model = model
        self._ngrams = NgramRule(config.no_repeat_ngram, config.ngram_window, detokenizer.cell_ids)
        undecodable = detokenizer.undecodable(model.config.vocab_size)
        self._undecodable = torch.from_numpy(undecodable).to(self.device)
        self._features: dict[Sequence, dict[int, Tensor]] = {}  # of views, until all are there
        self._vision: dict[Sequence, Tensor] = {}  # vision tokens [V,D]

        self.cache_tokens = config.cache_tokens or self._affordable_tokens(config.batch_size)
        # A page is 1,000 tokens or more. With rows for more pages than fit, pixels would wait.
        fitting = max(1, self.cache_tokens // 1024)
        self.max_pages = config.batch_size or min(self.limits.pages, fitting)
        self.in_blocks = self.device.type == "cuda" if on_device is None else on_device
        with device_errors(self.device):
            self._loop = self._make_loop(detokenizer.eos_id)

    def _make_loop(self, eos_id: int) -> Loop:
        model, dims = self._model, self._model.config
        size = CacheSize(
            layers=dims.num_hidden_layers,
            heads=dims.num_attention_heads,
            head_dim=dims.head_dim,
            tokens=self.cache_tokens,
            longest=self.context,
            device=self.device,
            dtype=self.dtype,
        )
        if not self.in_blocks:
            return HostLoop(model, KVCache(size), self._pick)
        return DeviceLoop(
            model,
            BlockCache(size),
            undecodable=self._undecodable,
            ngrams=self._ngrams,
            eos_id=eos_id,
            # In other dtypes the experts' rows are counted on the host, which no graph can hold.
            capture=self.device.type == "cuda" and self.dtype == torch.bfloat16,
        )

    @property
    def ahead(self) -> int:
        """Tokens beyond its length that a page needs room for before it is decoded."""
        return self._loop.ahead

    def arrange(self, running: list[Sequence], row_length: int) -> None:
        """Lay out the KV cache: page i of `running` in row i, rows of this many tokens."""
        self._loop.arrange(running, row_length)

    @torch.inference_mode()
    def encode(self, views: list[View]) -> None:
        """Encode views of one size; a page all of whose views are encoded drops its pixels.

        Raises:
            OutOfMemory, DeviceError.
        """
        with device_errors(self.device):
            pixels = torch.from_numpy(np.stack([view.pixels for view in views])).to(self.device)
            features = self._model.encode_views(pixels)
            for view, encoded in zip(views, features, strict=True):
                self._features.setdefault(view.page, {})[view.place] = encoded
            for page in dict.fromkeys(view.page for view in views):
                self._assemble(page)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # the caller takes the time

    def _assemble(self, page: Sequence) -> None:
        """Join a page's features to its vision tokens, if all are there."""
        features, views = self._features[page], page.views
        if views is not None:  # else: joined already, in a batch that then ran out of memory
            if len(features) <= len(views.tiles):
                return
            tiles = [features[place] for place in range(1, len(features))]
            stacked = torch.stack(tiles) if tiles else features[0].new_empty(0)
            self._vision[page] = self._model.image_sequence(features[0], stacked, views.grid)
            page.views = None
        del self._features[page]

    @torch.inference_mode()
    def prefill(self, pages: list[Sequence]) -> Picks:
        """Run prompts, and what has been generated before a page was put back; pick a token.

        Raises:
            OutOfMemory, DeviceError.
        """
        lengths = [page.length for page in pages]
        shape = (len(pages), max(lengths))
        ids, is_image = np.zeros(shape, np.int64), np.zeros(shape, np.bool_)  # padded at the end
        for row, page in enumerate(pages):
            prompt = len(page.input_ids)
            ids[row, :prompt] = page.input_ids
            ids[row, prompt : page.length] = page.token_ids
            is_image[row, :prompt] = page.image_mask
            assert len(self._vision[page]) == page.image_mask.sum(), page.ref
        with device_errors(self.device):
            x = self._model.embed(torch.from_numpy(ids).to(self.device))
            vision = torch.cat([self._vision[page] for page in pages])
            # Places, not a mask: how many places a mask has, a GPU would have to tell the host.
            places = torch.from_numpy(np.flatnonzero(is_image)).to(self.device)
            x.flatten(0, 1)[places] = vision
            positions = torch.arange(shape[1], device=self.device).expand(shape)
            hidden = self._model(x, positions, self._loop.prefilling(pages))
            last = torch.tensor(lengths, device=self.device) - 1
            hidden = hidden[torch.arange(len(pages), device=self.device), last]
            return self._pick([page.token_ids for page in pages], hidden)

    @torch.inference_mode()
    def decode(self, pages: list[Sequence]) -> list[Picks]:
        """Take each running page some tokens further. `pages` are all of them, in row order.

        Returns:
            The next tokens of each page, one at least; those behind its end mean nothing.

        Raises:
            OutOfMemory, DeviceError.
        """
        with device_errors(self.device):
            return self._loop.decode(pages)

    def _pick(self, texts: list[list[int]], hidden: Tensor) -> Picks:
        """A token after each of the texts, from the first of the hidden states [rows,D]."""
        banned = [self._ngrams.banned(ids) for ids in texts]
        # Of all rows: their number is one of few, that of the texts is not.
        logits = self._model.logits(hidden)[: len(texts)]
        return pick(logits, undecodable=self._undecodable, banned=banned)

    def forget(self, page: Sequence) -> None:
        """Drop what is kept for a page beside the KV cache."""
        self._features.pop(page, None)
        self._vision.pop(page, None)

    def release_memory(self) -> None:
        """Give memory back after running out of it, when the exception is gone."""
        release_memory(self.device)

    def close(self) -> None:
        """Give the model and the cache back."""
        del self._model, self._loop
        self._features.clear()
        self._vision.clear()
        release_memory(self.device)

    def _affordable_tokens(self, batch_size: int | None) -> int:
        """Tokens of KV cache that memory allows, and that can be of use."""
        dims = self._model.config
        a_token = bytes_per_token(
            layers=dims.num_hidden_layers,
            heads=dims.num_attention_heads,
            head_dim=dims.head_dim,
            dtype=self.dtype,
        )
        working = self._working_bytes()
        free = free_bytes(self.device)
        spare = int(free * self.limits.memory_share) - min(working, free // 2)
        if spare < (self.context + HEADROOM) * a_token // 4:
            raise OutOfMemory(
                f"{self.device} has {free / 1e9:.1f} GB free after loading the model, too little "
                "to work with; free memory there, or choose another device"
            )
        useful = (batch_size or self.limits.pages) * self.context
        return min(spare // a_token, useful) // BLOCK * BLOCK

    @torch.inference_mode()
    def _working_bytes(self) -> int:
        """Memory that the largest batches need for a moment; measured, on CUDA devices only."""
        if self.device.type != "cuda":
            return 0
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        try:
            with device_errors(self.device):
                pixels = torch.zeros(
                    self.limits.vision_pixels >> 20, 3, 1024, 1024, dtype=torch.uint8
                )
                self._model.encode_views(pixels.to(self.device))
                positions = torch.arange(self.limits.prefill_tokens, device=self.device)[None]
                self._model(self._model.embed(positions % 2), positions, None)
        except OutOfMemory:
            log.warning("%s is short of memory; batches will be small", self.device)
        peak = torch.cuda.max_memory_allocated(self.device) - before
        release_memory(self.device)
        return peak


def load_runner(model_dir: Path, detokenizer: Detokenizer, config: EngineConfig) -> Runner:
    """Load a checkpoint onto the configured device.

    Raises:
        CheckpointError: the folder does not hold DeepSeek-OCR.
        DeviceError: the device is not there, or too small.
    """
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with device_errors(device):
        model = load_model(model_dir, device=device, dtype=dtype)
    return Runner(model, detokenizer, config)
