"""What the model is asked, and the ids that ask it.

The prompt is plain text with one `<image>` in it; there are no roles and no chat template. Ids
are the beginning of sequence, the text before the image, one placeholder for every vision token,
and the text after it.
"""

import re
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from docr.errors import CheckpointError, UsageError
from docr.modes.mode import Mode
from docr.settings import Task
from docr.types import PageInputs, PageRef, PageViews

IMAGE = "<image>"
_BOS = "<｜begin▁of▁sentence｜>"

_PROMPTS: dict[Task, str] = {
    "markdown": f"{IMAGE}\n<|grounding|>Convert the document to markdown.",
    "ocr": f"{IMAGE}\nFree OCR.",
    "image": f"{IMAGE}\n<|grounding|>OCR this image.",
    "figure": f"{IMAGE}\nParse the figure.",
    "describe": f"{IMAGE}\nDescribe this image in detail.",
    "locate": f"{IMAGE}\nLocate <|ref|>{{query}}<|/ref|> in the image.",
}
"""The prompts of the model's README, which it was trained on; it does not chat."""

_SPECIAL = re.compile(r"<[|｜]|[|｜]>|<image>|</?t[dr]>")
"""What every special token of the official tokenizer contains."""


def prompt_text(task: Task, query: str | None, prompt: str | None) -> str:
    """The prompt in words, with `<image>` where the page goes.

    A query is refused where it spells a special token: the tokenizer would read `<|/ref|>` in it
    as the end of the query. A prompt may spell them, as the official ones do.

    Args:
        task: which of the official prompts.
        query: what to look for, for the task "locate".
        prompt: the prompt itself, instead of a task's; `<image>` and a newline are put before it
            unless it says where the image goes.

    Raises:
        UsageError: a prompt with several `<image>`, or an empty one; a query that is missing or
            spells a special token; text that is not valid Unicode.
    """
    if prompt is not None:
        if not prompt.strip():
            raise UsageError("the prompt is empty")
        text = prompt if IMAGE in prompt else f"{IMAGE}\n{prompt}"
    elif task == "locate":
        if query is None or not query.strip():
            raise UsageError('task "locate" needs a query: what to look for')
        if found := _SPECIAL.search(query):
            raise UsageError(f"the query must not contain {found[0]!r}, part of a special token")
        text = _PROMPTS[task].format(query=query.strip())
    else:
        text = _PROMPTS[task]
    try:
        text.encode()
    except UnicodeEncodeError:  # an argument's undecodable bytes, as surrogates
        raise UsageError(f"the prompt or query is not valid UTF-8: {text!r}") from None
    split_at_image(text)
    return text.strip()


def split_at_image(text: str) -> tuple[str, str]:
    """The prompt's text before and after its image.

    Raises:
        UsageError: there is not exactly one `<image>`.
    """
    parts = text.split(IMAGE)
    if len(parts) != 2:
        raise UsageError(f"a prompt has one {IMAGE}, not {len(parts) - 1}: {text!r}")
    return parts[0], parts[1]


class Prompter:
    """Turns a prompt and a page's views into the model's input."""

    def __init__(self, tokenizer_file: Path) -> None:
        """Load a tokenizer.

        Args:
            tokenizer_file: the checkpoint's tokenizer.json.

        Raises:
            CheckpointError: it cannot be read, or has no image or beginning-of-sequence token.
        """
        try:
            # from_file would raise bare Exceptions
            self._tokenizer = Tokenizer.from_buffer(tokenizer_file.read_bytes())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{tokenizer_file}: cannot read the tokenizer: {error}") from None
        self._bos_id = self._id_of(_BOS, tokenizer_file)
        self._image_id = self._id_of(IMAGE, tokenizer_file)
        self._text: str | None = None  # of the last prompt
        self._ids: tuple[list[int], list[int]] = [], []

    def inputs(
        self, ref: PageRef, views: PageViews, mode: Mode, text: str, *, layer: str = ""
    ) -> PageInputs:
        """Build the ids around a page's views.

        Args:
            ref: the page.
            views: its pixels; their grid and the mode say how many placeholders there are.
            mode: the mode that `views` were prepared in.
            text: the prompt, from `prompt_text`.
            layer: the page's text layer, which may help to guess what the model will write.

        Raises:
            UsageError: `text` has not exactly one `<image>`.
        """
        head, tail = self._around(text)
        count = mode.num_vision_tokens(views.grid)
        image = slice(len(head), len(head) + count)
        input_ids = np.empty(len(head) + count + len(tail), np.int64)
        input_ids[: image.start] = head
        input_ids[image] = self._image_id
        input_ids[image.stop :] = tail
        image_mask = np.zeros(input_ids.shape, np.bool_)
        image_mask[image] = True
        # One line: the model mostly writes a paragraph's lines as one.
        line = " ".join(layer.encode(errors="replace").decode().split())
        # As a batch, for then the tokenizer lets other threads go on.
        (encoded,) = self._tokenizer.encode_batch([line], add_special_tokens=False)
        return PageInputs(
            ref=ref,
            views=views,
            input_ids=input_ids,
            image_mask=image_mask,
            layer_ids=np.array(encoded.ids, np.int64),
        )

    def _around(self, text: str) -> tuple[list[int], list[int]]:
        """The ids before and after the image, which are those of the page before."""
        if text != self._text:
            before, after = split_at_image(text.strip())
            self._text, self._ids = text, ([self._bos_id, *self.encode(before)], self.encode(after))
        return self._ids

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without a beginning of sequence."""
        # No post-processing: the tokenizer would put a second beginning of sequence here.
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _id_of(self, token: str, tokenizer_file: Path) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise CheckpointError(f"{tokenizer_file}: the tokenizer has no token {token}")
        return token_id
