"""The paper's experiment: how precision falls as a vision token has to carry more text.

A model that writes characters would seem to compress well if its own tokens were counted. Text
tokens are therefore those of a byte-level BPE of usual make, trained on the training prose.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from scripts.train_mini.chart import Curve
from scripts.train_mini.score import PageScore, collapse

BPE_ENTRIES = 4096

EDGES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 9.0, 13.0)
"""Between buckets of compression."""

LEAST_PAGES = 2
"""A bucket with fewer is left out."""

PAPER = {
    "64": (
        (10.5, 0.965),
        (11.8, 0.938),
        (13.2, 0.838),
        (15.1, 0.859),
        (16.5, 0.793),
        (17.7, 0.764),
        (19.7, 0.591),
    ),
    "100": (
        (6.7, 0.985),
        (7.5, 0.973),
        (8.5, 0.968),
        (9.7, 0.968),
        (10.6, 0.915),
        (11.3, 0.898),
        (12.6, 0.871),
    ),
}
"""DeepSeek-OCR, table 2 (100 English pages of Fox), by vision tokens: (compression, precision)."""

COLOURS = {
    "prose": "#0072b2",
    "shuffled": "#009e73",
    "invented": "#e69f00",
    "strings": "#d55e00",
}
PAPER_COLOURS = {"64": "#444444", "100": "#999999"}


@dataclass(frozen=True, slots=True)
class MeasuredPage:
    """A page of the experiment.

    Attributes:
        content: what it says.
        characters, tokens: of its truth, white space collapsed.
        vision_tokens: as the paper counts them.
        em_px: size of its type in the view.
    """

    content: str
    characters: int
    tokens: int
    vision_tokens: int
    em_px: float
    score: PageScore

    @property
    def compression(self) -> float:
        """Text tokens per vision token."""
        return self.tokens / self.vision_tokens


@dataclass(frozen=True, slots=True)
class Bucket:
    """Pages of one content and about one compression; all figures are means over them.

    Attributes:
        wrong: precision of the outputs for other pages: what no reading at all would get.
    """

    content: str
    pages: int
    compression: float
    characters_per_vision_token: float
    characters_per_token: float
    em_px: float
    precision: float
    wrong: float


def train_bpe(sentences: Iterable[str]) -> Tokenizer:
    """A byte-level BPE of BPE_ENTRIES entries."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BPE_ENTRIES,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return tokenizer


def count_tokens(tokenizer: Tokenizer, text: str) -> int:
    """Tokens of a text, white space collapsed."""
    return len(tokenizer.encode(collapse(text)).ids)


def characters_per_token(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """Characters of the texts over their tokens."""
    tokens = sum(count_tokens(tokenizer, text) for text in texts)
    return sum(len(collapse(text)) for text in texts) / tokens


def buckets(pages: Sequence[MeasuredPage]) -> list[Bucket]:
    """Means by content and compression, in this order; contents in the order they come in."""
    result = []
    for content in dict.fromkeys(page.content for page in pages):
        for low, high in itertools.pairwise(EDGES):
            inside = [
                page for page in pages if page.content == content and low <= page.compression < high
            ]
            if len(inside) >= LEAST_PAGES:
                result.append(_bucket(content, inside))
    return result


def _bucket(content: str, pages: Sequence[MeasuredPage]) -> Bucket:
    count = len(pages)
    characters = sum(page.characters for page in pages)
    return Bucket(
        content=content,
        pages=count,
        compression=sum(page.compression for page in pages) / count,
        characters_per_vision_token=characters / sum(page.vision_tokens for page in pages),
        characters_per_token=characters / sum(page.tokens for page in pages),
        em_px=sum(page.em_px for page in pages) / count,
        precision=sum(page.score.precision for page in pages) / count,
        wrong=sum(max(0.0, 1 - page.score.wrong.rate) for page in pages) / count,
    )


def curves(found: Sequence[Bucket]) -> list[Curve]:
    """What the chart shows: ours by content, and the paper's."""
    ours = [
        Curve(
            f"mini: {content}",
            [
                (bucket.compression, bucket.precision)
                for bucket in found
                if bucket.content == content
            ],
            COLOURS[content],
        )
        for content in dict.fromkeys(bucket.content for bucket in found)
    ]
    paper = [
        Curve(f"paper: {tokens} tokens", points, PAPER_COLOURS[tokens], dashed=True)
        for tokens, points in PAPER.items()
    ]
    return ours + paper
