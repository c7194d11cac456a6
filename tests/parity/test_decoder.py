"""The decoder against the reference, part by part."""

import pytest
import torch
import torch.nn.functional as F

from docr.engine.model.decoder import rotary_table
from tests.parity.oracle import Pair, assert_same

TOKENS = 37


def stream(pair: Pair) -> torch.Tensor:
    """Embeddings [2,T,D] of random ids."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, pair.ours.config.vocab_size, (2, TOKENS), generator=generator)
    return pair.ours.embed(ids)


@torch.inference_mode()
def test_embeddings(pair: Pair) -> None:
    ids = torch.arange(pair.ours.config.vocab_size)
    assert torch.equal(pair.ours.embed(ids), pair.theirs.get_input_embeddings()(ids))


@pytest.mark.parametrize("layer", [0, 1, 2])
@torch.inference_mode()
def test_each_layer_and_its_parts(pair: Pair, layer: int) -> None:
    x = stream(pair)
    ours, language = pair.ours.decoder.layers[layer], pair.theirs.model.language_model
    theirs = language.layers[layer]
    positions = torch.arange(TOKENS)[None].expand(2, -1)
    rotary = rotary_table(positions, pair.ours.config, x.dtype)
    cos, sin = language.rotary_emb(x, position_ids=positions)
    assert_same("cosines", rotary[0, :, 0], cos)
    assert_same("sines", rotary[1, :, 0], sin)

    normed = theirs.input_layernorm(x)
    assert_same("norm", ours.input_norm(x), normed)
    mask = torch.full((TOKENS, TOKENS), -torch.inf).triu(1)[None, None]
    mixed, _ = theirs.self_attn(normed, position_embeddings=(cos, sin), attention_mask=mask)
    assert_same("attention", ours.attention(normed, rotary, None), mixed)
    assert_same("MLP", ours.mlp(normed), theirs.mlp(normed))
    after = theirs(x, position_embeddings=(cos, sin), attention_mask=mask)
    assert_same("layer", ours(x, rotary, None), after)


@pytest.mark.parametrize("layer", [1, 2])
@torch.inference_mode()
def test_routing(pair: Pair, layer: int) -> None:
    x = F.normalize(stream(pair).flatten(0, 1), dim=-1) * pair.ours.config.hidden_size**0.5
    weights, experts = pair.ours.decoder.layers[layer].mlp.route(x)
    _, their_weights, their_experts = pair.theirs.model.language_model.layers[layer].mlp.gate(x)
    assert torch.equal(experts.sort(-1).values, their_experts.sort(-1).values)
    assert_same("weights", weights.sort(-1).values, their_weights.sort(-1).values)
    assert len(experts.unique()) == pair.ours.config.n_routed_experts  # the gate does spread


@torch.inference_mode()
def test_hidden_states_and_logits(pair: Pair) -> None:
    x = stream(pair)
    hidden = pair.ours(x, torch.arange(TOKENS)[None].expand(2, -1))
    theirs = pair.theirs.model.language_model(inputs_embeds=x).last_hidden_state
    assert_same("hidden states", hidden, theirs)
    assert_same("logits", pair.ours.logits(hidden), pair.theirs.lm_head(theirs))
