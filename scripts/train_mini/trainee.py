"""The network in training: docr's own model, with heads and losses that are dropped afterwards.

Shapes: B pages, n x m vision tokens, S slots of a token, C classes of characters, D hidden size,
T text tokens, L tokens of a sequence.
"""

import math
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from docr.engine.model.decoder import MoE, rotate
from docr.engine.model.deepseek_ocr import DeepseekOCR
from scripts.train_mini.labels import NUM_CLASSES, NUM_COLUMNS, NUM_LINES, IdealCode
from scripts.train_mini.recipe import Recipe, StageRecipe
from scripts.train_mini.stream import IGNORE, Batch
from scripts.train_mini.tokenizer import BOS_ID

POINTING_LAYERS = (2, 3)
"""Decoder layers whose first head is taught to look at the token that is read next. The first
finds it by what was read; the next one can also see where the last characters were found."""

BALANCE = 0.02
POINT = 0.5
PLACE = 0.3
COUNT = 0.2
SLIPS = 0.15
"""Share of the characters read so far, at most, that are shown wrong in training. Without, the next
place is found by what was read alone, and one wrong character loses the line for good."""

JITTER = 0.6
"""Standard deviation of the numbers of lines and characters in spoilt ideal tokens."""

BLANK_PATCH, BLANK_SLOT = 0.1, 0.3
"""Weights of the class "nothing there" among the labels: most patches are blank."""


NUM_COUNTS = NUM_LINES + NUM_COLUMNS


class Trainee(nn.Module):
    """A DeepseekOCR with what teaches it.

    Attributes:
        model: what is exported.
        patch_head: characters of patches, from SAM's neck.
        slot_head: characters of a vision token, from what the projector sees.
        count_head: numbers of lines and characters of a vision token, from the same.
        place_heads: the slot of the next character, from each pointing layer.
        written_head: the next character's numbers, before the first pointing layer.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        config = recipe.model
        self.model = DeepseekOCR(config)
        self.patch_head = nn.Linear(config.sam.neck_channels, NUM_CLASSES)
        self.slot_head = nn.Linear(2 * config.clip.width, recipe.slots.count * NUM_CLASSES)
        self.count_head = nn.Linear(2 * config.clip.width, recipe.slots.bands * NUM_COUNTS)
        self.written_head = nn.Linear(config.hidden_size, NUM_COUNTS)
        self.place_heads = nn.ModuleList(
            nn.Linear(config.hidden_size, recipe.slots.count) for _ in POINTING_LAYERS
        )
        self.code = IdealCode(config.hidden_size, recipe.slots)
        self._seen: dict[str, Any] = {}
        self._routes: list[tuple[Tensor, Tensor]] = []
        initialise(self)
        self._listen()

    def _listen(self) -> None:
        """Keep what the losses need of the forward pass; the model's own code stays as it is."""
        sam, layers = self.model.encoder.sam, self.model.decoder.layers
        sam.neck.register_forward_hook(self._keep("neck"))
        self.model.encoder.projector.register_forward_pre_hook(self._keep_inputs("features"))
        for index in POINTING_LAYERS:
            layers[index].attention.register_forward_pre_hook(self._keep_inputs(f"pointing{index}"))
            layers[index].register_forward_hook(self._keep(f"pointed{index}"))
        for layer in layers:
            if isinstance(layer.mlp, MoE):
                layer.mlp.route = self._balanced(layer.mlp)  # type: ignore[method-assign]

    def _keep(self, name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self._seen[name] = output

        return hook

    def _keep_inputs(self, name: str) -> Any:
        def hook(_module: nn.Module, inputs: Any) -> None:
            self._seen[name] = inputs

        return hook

    def _balanced(self, moe: MoE) -> Any:
        def route(x: Tensor) -> tuple[Tensor, Tensor]:
            # As in inference, in fp32: autocast would make the choice in bf16.
            with torch.autocast(x.device.type, enabled=False):
                scores = F.linear(x.float(), moe.gate.float()).softmax(-1)
            top = scores.topk(moe.top_k, dim=-1)
            if self.training:
                self._routes.append((scores, top.indices))
            return top.values, top.indices

        return route

    def forward(self, batch: Batch, stage: str, settings: StageRecipe) -> dict[str, Tensor]:
        """Losses and hit rates of a batch; "loss" is what is minimised."""
        self._routes.clear()
        out: dict[str, Tensor] = {}
        if stage == "decoder":
            tokens = self.spoil(batch, settings)
        else:
            with torch.set_grad_enabled(self.training and not settings.apart):
                tokens = self.see(batch, out)
        if stage != "encoder":
            self.read(batch, tokens, out)
        weights = {
            "patch": 1.0,
            "slot": 1.0,
            "ideal": 1.0,
            "text": 1.0,
            "point": POINT,
            "place": PLACE,
            "count": COUNT,
            "written": COUNT,
            "balance": BALANCE,
        }
        losses = [weights[name] * value for name, value in out.items() if name in weights]
        out["loss"] = torch.stack(losses).sum()
        return out

    def ideal(self, batch: Batch) -> Tensor:
        """Ideal tokens [B,n,m,D]."""
        return self.code.encode(batch.slots, batch.counts)

    def spoil(self, batch: Batch, settings: StageRecipe) -> Tensor:
        """Ideal tokens as an encoder would make them: noisy, miscounted, some of them lost."""
        counts = batch.counts
        missed = (JITTER * torch.randn(counts.shape, device=counts.device)).round().long()
        last = torch.tensor((NUM_LINES - 1, NUM_COLUMNS - 1), device=counts.device)
        counted = (counts + missed).clamp(min=0).minimum(last)
        tokens = self.code.encode(batch.slots, torch.where(counts < 0, counts, counted))
        noisy = tokens + settings.noise * torch.randn_like(tokens)
        kept = torch.rand(tokens.shape[:-1], device=tokens.device) >= settings.drop
        return noisy * kept[..., None]

    def see(self, batch: Batch, out: dict[str, Tensor]) -> Tensor:
        """Vision tokens [B,n,m,D] of the pixels, and the losses of the encoder."""
        B, n, m, _ = batch.slots.shape
        tokens = self.model.encode_views(batch.pixels).view(B, n, m, -1)
        patches = self.patch_head(self._seen["neck"].permute(0, 2, 3, 1)).float()
        score(out, "patch", patches, batch.patches, BLANK_PATCH)
        slots = self.slot_head(self._seen["features"][0]).view(B, n, m, -1, NUM_CLASSES).float()
        score(out, "slot", slots, batch.slots, BLANK_SLOT)
        counts = self.count_head(self._seen["features"][0]).view(B, n, m, -1, NUM_COUNTS)
        score_counts(out, "count", counts, batch.counts)
        ideal = self.ideal(batch)
        out["ideal"] = (tokens.float() - ideal).square().mean() / ideal.square().mean()
        return tokens

    def read(self, batch: Batch, tokens: Tensor, out: dict[str, Tensor]) -> None:
        """The losses of the decoder on vision tokens [B,n,m,D]."""
        read = batch.text[:, :-1]
        x, prefix = self.sequence(tokens, batch.prompt, slip(read) if self.training else read)
        T = batch.text.shape[1]
        hidden = self.model(x, torch.arange(x.shape[1], device=x.device)[None])
        logits = self.model.logits(hidden[:, -T:])
        out["text"] = F.cross_entropy(
            logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE
        )
        asked = batch.targets != IGNORE
        out["acc"] = (logits.argmax(-1) == batch.targets)[asked].float().mean()
        counted = self.written_head(self._seen[f"pointing{POINTING_LAYERS[0]}"][0][:, -T:])
        score_counts(out, "written", counted, batch.written)
        cell, slot = batch.place.unbind(-1)
        known = cell >= 0
        m = tokens.shape[2]
        at = prefix + cell.clamp(min=0) // m * (m + 1) + cell.clamp(min=0) % m
        out["point"] = out["place"] = logits.new_zeros(())
        for index, head in zip(POINTING_LAYERS, self.place_heads, strict=True):
            looks = self.looks(index, T)
            out["point"] = out["point"] + F.nll_loss(looks[known], at[known])
            out[f"point_acc{index}"] = (looks.argmax(-1) == at)[known].float().mean()
            places = head(self._seen[f"pointed{index}"][:, -T:]).float()[known]
            out["place"] = out["place"] + F.cross_entropy(places, slot[known])
            out[f"place_acc{index}"] = (places.argmax(-1) == slot[known]).float().mean()
        if self._routes:
            out["balance"] = torch.stack([imbalance(*route) for route in self._routes]).mean()

    def sequence(self, tokens: Tensor, prompt: Tensor, text: Tensor) -> tuple[Tensor, int]:
        """Embeddings [B,L,D] as the product lays them out, and where the vision tokens begin."""
        model = self.model
        B, n, _, D = tokens.shape
        newline = model.image_newline.expand(B, n, 1, D)
        seen = torch.cat((tokens, newline.to(tokens.dtype)), dim=2).flatten(1, 2)
        parts = (
            model.embed_tokens[BOS_ID].expand(B, 1, D),
            seen,
            model.view_separator.expand(B, 1, D),
            model.embed(prompt).expand(B, -1, D),
            model.embed(text),
        )
        return torch.cat([part.to(model.image_newline.dtype) for part in parts], dim=1), 1

    def looks(self, index: int, T: int) -> Tensor:
        """Log-probabilities [B,T,L]: where a layer's head looks from the last T positions."""
        x, rotary = self._seen[f"pointing{index}"][:2]
        attention = self.model.decoder.layers[index].attention
        B, L, D = x.shape
        hd = D // attention.heads
        weight = attention.qkv_proj.weight.view(3, attention.heads, hd, D)[:2, 0]
        q, k = F.linear(x, weight.flatten(0, 1)).view(B, L, 2, 1, hd).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, rotary)[:, 0, -T:], rotate(k, rotary)[:, 0]
        scores = (q @ k.transpose(-1, -2)).float() * hd**-0.5
        later = torch.ones(T, L, dtype=torch.bool, device=x.device).triu(L - T + 1)
        return scores.masked_fill(later, -torch.inf).log_softmax(-1)


def slip(text: Tensor) -> Tensor:
    """Texts i64 [B,T], some of whose characters are replaced by others of the same text."""
    B, T = text.shape
    share = SLIPS * torch.rand(B, 1, device=text.device)
    others = text.gather(1, torch.randint(T, (B, T), device=text.device)) if T else text
    return torch.where(torch.rand(B, T, device=text.device) < share, others, text)


def score(out: dict[str, Tensor], name: str, logits: Tensor, labels: Tensor, blank: float) -> None:
    """Add a classification's loss, and its hit rate where there is something to read."""
    weight = torch.ones(NUM_CLASSES, device=logits.device)
    weight[0] = blank
    out[name] = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), weight=weight)
    filled = labels != 0
    out[f"{name}_acc"] = (logits.argmax(-1) == labels)[filled].float().mean()


def score_counts(out: dict[str, Tensor], name: str, logits: Tensor, labels: Tensor) -> None:
    """Add the loss of numbers of lines and characters, and the hit rates.

    Args:
        logits: [...,NUM_COUNTS], of lines, then of characters.
        labels: i64 [...,2], below 0 where there is nothing to count.
    """
    known = labels[..., 0] >= 0
    logits, labels = logits.float()[known], labels[known]
    parts = zip(("line", "start"), logits.split((NUM_LINES, NUM_COLUMNS), -1), strict=True)
    out[name] = logits.new_zeros(())
    for index, (part, scores) in enumerate(parts):
        out[name] = out[name] + F.cross_entropy(scores, labels[:, index])
        out[f"{name}_{part}_acc"] = (scores.argmax(-1) == labels[:, index]).float().mean()


def imbalance(scores: Tensor, chosen: Tensor) -> Tensor:
    """1 where all experts have the same work, more otherwise (the Switch Transformer's loss)."""
    experts = scores.shape[-1]
    share = chosen.flatten().bincount(minlength=experts).float() / chosen.numel()
    return experts * (share * scores.mean(0)).sum()


_NORM = re.compile(r"(norm\d?|neck\.[13])\.weight$")
_OUT = re.compile(r"(proj|lin2|fc2|o_proj|down_proj)\.weight$|down_proj$")


@torch.no_grad()
def initialise(trainee: Trainee) -> None:
    """Random weights to start from."""
    model = trainee.model
    depth = {"encoder": 8, "decoder": 2 * len(model.decoder.layers)}
    for name, parameter in model.named_parameters():
        if _NORM.search(name):
            parameter.fill_(1.0)
        elif name.endswith("bias"):
            parameter.zero_()
        elif parameter.ndim >= 2:
            fan_in = math.prod(parameter.shape[1:]) if parameter.ndim != 3 else parameter.shape[-1]
            parameter.normal_(std=fan_in**-0.5)
            if _OUT.search(name):
                parameter.mul_(depth[name.split(".")[0]] ** -0.5)
        else:
            parameter.normal_(std=0.3)
    sam, clip = model.encoder.sam, model.encoder.clip
    # Filters without a mean: paper of any colour starts as nothing.
    patch = sam.patch_embed.weight
    patch.normal_(std=(2.0 / math.prod(patch.shape[1:])) ** 0.5)
    patch.sub_(patch.mean(dim=(1, 2, 3), keepdim=True))
    sam.pos_embed.normal_(std=0.02)
    for block in sam.blocks:
        block.attn.rel_pos_h.normal_(std=0.2)
        block.attn.rel_pos_w.normal_(std=0.2)
    for net in (sam.net_2, sam.net_3):
        # Space to depth, nearly orthogonal: every patch of a token reaches it unmixed.
        out, inside = net.weight.shape[:2]
        net.weight.normal_(std=0.002)
        taps = nn.init.orthogonal_(torch.empty(out, inside * 4)).view(out, inside, 2, 2)
        net.weight[:, :, 1:, 1:] += taps
    clip.position_embedding.normal_(std=0.1)
    model.embed_tokens.normal_(std=0.3)
    model.lm_head.weight.normal_(std=0.02)
    trainee.patch_head.bias[0] = 2.0
    trainee.slot_head.bias.view(-1, NUM_CLASSES)[:, 0] = 2.0
