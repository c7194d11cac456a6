"""The kernels in C against their twins in PyTorch."""

import logging
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from docr.compiled import Code, Unavailable, cache_folder
from docr.engine import sampling
from docr.engine.cache import Decoding
from docr.engine.grid_attention import grid_attention_torch
from docr.engine.model import decoder
from docr.engine.model.decoder import Experts, RMSNorm
from docr.engine.model.deepseek_ocr import DeepseekOCR
from docr.engine.model.layout import lay_out
from docr.engine.model.load import load_model
from docr.engine.model.native import (
    NativeDecoder,
    NativeExperts,
    NativeInt8Experts,
    NativeInt8Linear,
    NativeLinear,
)
from docr.engine.native import library, products
from docr.engine.native.products import Int8Matrices
from docr.engine.sampling import pick
from scripts.make_random_checkpoint import toy_config, write_checkpoint
from tests.unit.test_compiled import has_compiler

FORMS = {"AVX512": library.AVX512, "AMX": library.AMX}


@pytest.fixture(params=FORMS)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each form in turn. That one fails to compile is no reason to skip it."""
    code = FORMS[request.param]
    try:
        code.check_processor()
    except Unavailable as reason:
        pytest.skip(str(reason))
    if not has_compiler():
        pytest.skip("no C compiler")
    try:
        loaded = library.load_form(code, cache_folder())
    except Unavailable as reason:
        if "the system does not let" not in str(reason):
            raise
        pytest.skip(str(reason))
    for user in (products, sampling):
        monkeypatch.setattr(user, "library", lambda: loaded)


needs_library = pytest.mark.usefixtures("kernels")


def bf16(*shape: int) -> Tensor:
    return torch.randn(*shape).bfloat16()


def error(got: Tensor, wanted: Tensor) -> float:
    return float((got.float() - wanted.float()).norm() / wanted.float().norm())


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize("sides", [(4, 64), (36, 128), (132, 896), (48, 128), (160, 896)])
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 9, 17, 48, 101])
def test_products_are_those_of_pytorch(rows: int, sides: tuple[int, int]) -> None:
    torch.manual_seed(rows)
    x, weight = bf16(rows, sides[1]), bf16(*sides)
    exact = x.float() @ weight.float().T
    assert torch.equal(products.linear(x, weight), exact.bfloat16()) or (
        error(products.linear(x, weight), exact) < 3e-3
    )
    assert error(products.linear(x, Int8Matrices.of(weight)), exact) < 0.03


@needs_library
@torch.inference_mode()
def test_whole_numbers_come_out_exactly() -> None:
    torch.manual_seed(0)
    x, weight = torch.randint(-3, 4, (11, 192)), torch.randint(-3, 4, (68, 192))
    got = products.linear(x.bfloat16(), weight.bfloat16())
    assert torch.equal(got, (x @ weight.T).bfloat16())


@needs_library
@torch.inference_mode()
def test_eight_bits_scale_each_row() -> None:
    torch.manual_seed(0)
    weight = (torch.randn(96, 64) * torch.logspace(-4, 2, 96)[:, None]).bfloat16()
    x = (torch.randn(7, 64) * torch.logspace(-3, 3, 7)[:, None]).bfloat16()
    x[3] = 0
    got, wanted = products.linear(x, Int8Matrices.of(weight)), x.float() @ weight.float().T
    assert not got[3].any()
    sides = x.float().norm(dim=-1)[:, None] * weight.float().norm(dim=-1)
    assert ((got - wanted).abs() / sides.clamp(min=1e-9)).max() < 0.01  # of each, small or large


@needs_library
@torch.inference_mode()
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 80), seed=st.integers(0, 1000))
def test_a_row_does_not_depend_on_those_beside_it(rows: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, weight = bf16(rows, 128), bf16(32, 128)
    gate_up, down = bf16(4, 128, 128), bf16(4, 128, 64)
    shares, chosen = torch.rand(rows, 2), torch.rand(rows, 4).topk(2).indices
    forms: tuple[Any, ...] = (lambda one: one, Int8Matrices.of)
    for form in forms:
        w, up, back = form(weight), form(gate_up), form(down)
        lines = products.linear(x, w)
        mixed = products.mix_experts(x, shares, chosen, up, back)
        for row in {0, rows // 2, rows - 1}:
            one = slice(row, row + 1)
            assert torch.equal(products.linear(x[one], w), lines[one])
            alone = products.mix_experts(x[one], shares[one], chosen[one], up, back)
            assert torch.equal(alone, mixed[one])


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("form", [Tensor.clone, Int8Matrices.of])
def test_threads_share_the_work(threads: int, form: Any) -> None:
    torch.manual_seed(threads)
    weight, gate_up, down = form(bf16(160, 128)), form(bf16(5, 384, 128)), form(bf16(5, 128, 192))
    x, shares = bf16(70, 128), torch.rand(70, 2)
    chosen = torch.rand(70, 5).topk(2).indices
    q, k, v = bf16(2, 100, 3, 2, 64).permute(2, 0, 3, 1, 4)
    biases = bf16(2, 2, 2, 100, 10)

    def results() -> list[Tensor]:
        return [
            products.linear(x, weight),
            products.mix_experts(x, shares, chosen, gate_up, down),
            products.grid_attention(q, k, v, *biases),
        ]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = results()
        torch.set_num_threads(threads)
        together = results()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(*pair) for pair in zip(alone, together, strict=True))


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize("rows", [1, 2, 5, 33, 200])
def test_experts_mix_as_in_pytorch(rows: int) -> None:
    torch.manual_seed(rows)
    experts = Experts(8, 128, 192).bfloat16()
    for weight in experts.parameters():
        weight.normal_(std=weight.shape[-1] ** -0.5)
    x, shares, chosen = bf16(rows, 128), torch.rand(rows, 3), torch.rand(rows, 8).topk(3).indices
    chosen[: rows // 2] = torch.tensor([7, 0, 3])  # a crowd
    wanted = experts(x, shares, chosen)
    exact = experts.float()(x.float(), shares, chosen)
    experts.bfloat16()
    assert error(NativeExperts(experts)(x, shares, chosen), wanted) < 3e-3
    assert error(NativeExperts(experts)(x, shares, chosen), exact) < 1e-2
    assert 1e-3 < error(NativeInt8Experts(experts)(x, shares, chosen), exact) < 0.04


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize("count", [5, 8, 17, 64])
def test_experts_are_chosen_as_in_pytorch(count: int) -> None:
    torch.manual_seed(count)
    x, gate = bf16(9, 192), torch.randn(count, 192)
    x[4] = 0  # all alike
    shares, chosen = products.route(x, gate, 4)
    wanted = (x.float() @ gate.T).softmax(-1).topk(4)
    torch.testing.assert_close(shares, wanted.values, rtol=1e-4, atol=1e-7)
    others = [row for row in range(9) if row != 4]
    assert torch.equal(chosen[others], wanted.indices[others])
    assert len(set(chosen[4].tolist())) == 4 and chosen.min() >= 0 and chosen.max() < count


@needs_library
@torch.inference_mode()
def test_not_a_number_still_chooses_experts() -> None:
    x = bf16(2, 64)
    x[0, 3] = torch.nan
    _, chosen = products.route(x, torch.randn(8, 64), 3)
    assert chosen.min() >= 0 and chosen.max() < 8 and len(set(chosen[0].tolist())) == 3


@needs_library
@torch.inference_mode()
def test_norms_and_rotations_are_those_of_pytorch() -> None:
    torch.manual_seed(0)
    norm = RMSNorm(192, 1e-6).bfloat16()
    norm.weight.copy_(bf16(192))
    x = bf16(2, 3, 192) * 10
    torch.testing.assert_close(products.norm(x, norm.weight, norm.eps), norm(x), rtol=1e-2, atol=0)
    qkv, rotary = bf16(2, 3, 3, 4, 64), bf16(2, 2, 1, 3, 64)
    rotary[..., 32:] = rotary[..., :32]  # as rotary_table makes it
    wanted = decoder.rotate(qkv.permute(2, 0, 3, 1, 4)[:2], rotary)
    values = qkv[:, :, 2].clone()
    products.rotate(qkv.flatten(0, 1), rotary)
    assert torch.equal(qkv.permute(2, 0, 3, 1, 4)[:2], wanted)
    assert torch.equal(qkv[:, :, 2], values)


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize("vocabulary", [5, 16, 320, 1001])
def test_tokens_are_picked_as_in_pytorch(vocabulary: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(vocabulary)
    logits = torch.randn(7, vocabulary) * 5
    logits[1] = 2.0  # all alike: the first
    logits[2, -1] = 50.0
    undecodable = torch.rand(vocabulary) < 0.2
    undecodable[:2], undecodable[-1] = torch.tensor([True, False]), True
    banned: list[set[int]] = [set() for _ in range(7)]
    for _ in range(3):  # each time the likeliest is banned, too
        both = logits.clone(), logits.clone()
        got = pick(both[0], undecodable=undecodable, banned=banned)
        with monkeypatch.context() as patch:
            patch.setattr(sampling, "library", lambda: None)
            wanted = pick(both[1], undecodable=undecodable, banned=banned)
        assert got.token_ids == wanted.token_ids
        assert got.logprobs == pytest.approx(wanted.logprobs, abs=1e-5)
        for tokens, token in zip(banned, got.token_ids, strict=True):
            tokens.add(token)


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize("head", products.HEADS)
@pytest.mark.parametrize(
    ("counts", "ends"), [((1, 1), (1, 70)), ((2, 2), (5, 5)), ((9, 1, 3), (9, 200, 4))]
)
def test_attention_sees_up_to_its_own_position(
    counts: tuple[int, ...], ends: tuple[int, ...], head: int
) -> None:
    torch.manual_seed(sum(counts))
    rows = bf16(2, 4, 2, 256, head)  # of a cache: more of them, and longer, than is needed
    keys, values = rows[0, :-1], rows[1, :-1]
    q = bf16(1, sum(counts), 2, head).transpose(1, 2)
    places = [torch.arange(end - count, end) for count, end in zip(counts, ends, strict=True)]
    starts = torch.tensor([0, *counts]).cumsum(0)
    wanted, new = [], []
    for page, (place, end) in enumerate(zip(places, ends, strict=True)):
        own = slice(int(starts[page]), int(starts[page + 1]))
        one = slice(page, page + 1)
        seen = torch.arange(256) <= place[None, None, :, None]
        wanted.append(decoder.attend(q[:, :, own], keys[one], values[one], seen))
        new.append(rows[:, one, :, place].clone())  # what is to be stored
        for kept in (keys, values):
            kept[page, :, end:] = torch.nan  # whatever was there before
            kept[page, :, place] = torch.nan
    k, v = torch.cat(new, dim=3)
    got = products.attend(q, k, v, keys, values, torch.cat(places)[None], starts)
    assert got.shape == q.shape
    assert error(got, torch.cat(wanted, dim=2)) < 1e-2


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize(("views", "side"), [(1, 1), (2, 5), (3, 14), (1, 16), (1, 33), (1, 40)])
def test_attention_over_a_grid(views: int, side: int) -> None:
    torch.manual_seed(side)
    N = side * side
    q, k, v = bf16(views, N, 3, 2, 64).permute(2, 0, 3, 1, 4)
    rows, columns = 2 * bf16(views, 2, N, side), 2 * bf16(views, 2, N, side)
    got = products.grid_attention(q, k, v, rows, columns)
    exact = grid_attention_torch(*(part.float() for part in (q, k, v, rows, columns)))
    assert got.shape == exact.shape and got.isfinite().all()
    assert error(got, exact) < 4e-3


@needs_library
@torch.inference_mode()
def test_a_score_that_towers_over_the_others() -> None:
    torch.manual_seed(0)
    q, k, v = bf16(1, 400, 3, 1, 64).permute(2, 0, 3, 1, 4)
    rows, columns = torch.zeros(2, 1, 1, 400, 20).bfloat16()
    rows[..., 11], columns[..., 13] = 300, 300  # met late, and nothing else counts
    got = products.grid_attention(q, k, v, rows, columns)
    assert torch.equal(got, v[:, :, None, 11 * 20 + 13].expand(1, 1, 400, 64))


@pytest.fixture(scope="module")
def wide_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy with sides that the kernels take."""
    folder = tmp_path_factory.mktemp("toy")
    config = toy_config()
    sides = {"hidden_size": 128, "moe_intermediate_size": 64, "intermediate_size": 192}
    config["language_config"].update(sides)
    config["projector_config"]["n_embed"] = 128
    write_checkpoint(folder, config)
    return folder


@torch.inference_mode()
def logits(model: DeepseekOCR, rows: int) -> Tensor:
    ids = torch.arange(rows * 7).view(rows, 7) % model.config.vocab_size
    return model.logits(model(model.embed(ids), torch.arange(7).expand(rows, 7)))


@needs_library
@pytest.mark.parametrize("rows", [1, 2, 30])
def test_a_model_computes_the_same(wide_toy: Path, rows: int) -> None:
    model = load_model(wide_toy, device="cpu", dtype=torch.bfloat16)
    before = logits(model, rows)
    lay_out(model, "none")
    assert isinstance(model.lm_head, NativeLinear)
    kinds = {type(module) for module in model.decoder.modules()}
    assert NativeExperts in kinds and not {torch.nn.Linear, Experts, RMSNorm} & kinds
    assert error(logits(model, rows), before) < 5e-3


@needs_library
def test_a_model_in_eight_bits_is_near(wide_toy: Path) -> None:
    model = load_model(wide_toy, device="cpu", dtype=torch.bfloat16)
    before = logits(model, 3)
    lay_out(model, "int8")
    assert isinstance(model.lm_head, NativeInt8Linear)
    assert 1e-3 < error(logits(model, 3), before) < 0.06


@needs_library
@torch.inference_mode()
@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("counts", [[1], [1, 1, 1], [5, 1, 3]])
def test_all_layers_in_one_call(
    wide_toy: Path, counts: list[int], quantize: Literal["none", "int8"]
) -> None:
    model = load_model(wide_toy, device="cpu", dtype=torch.bfloat16)
    lay_out(model, quantize)
    decoder, dims = model.decoder, model.config
    assert isinstance(decoder, NativeDecoder)
    torch.manual_seed(len(counts))
    shape = (len(counts) + 1, dims.num_attention_heads, 128, dims.head_dim)
    kept = [bf16(*shape) for _ in range(2 * dims.num_hidden_layers)]
    x = bf16(1, sum(counts), dims.hidden_size)
    before = x.clone()
    results = []
    for decoder.whole in (False, True):
        begins = [70, 0, 9][: len(counts)]
        cache = Decoding([rows.clone() for rows in kept], begins, counts)
        hidden = decoder(x, cache.positions, cache)
        results.append((hidden, *cache.rows))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    assert not torch.equal(results[0][1], kept[0]) and torch.equal(x, before)


@needs_library
@torch.inference_mode()
def test_a_step_of_many_tokens(wide_toy: Path) -> None:
    model = load_model(wide_toy, device="cpu", dtype=torch.bfloat16)
    dims, counts = model.config, [90, 1, 70]
    torch.manual_seed(0)
    shape = (len(counts), dims.num_attention_heads, 128, dims.head_dim)
    kept = [bf16(*shape) for _ in range(2 * dims.num_hidden_layers)]
    x, results = bf16(1, sum(counts), dims.hidden_size), []
    x = torch.cat((x, x[:, -1:].expand(-1, 192 - sum(counts), -1)), dim=1)  # see cache.STEP
    for laid_out in (False, True):
        if laid_out:
            lay_out(model, "none")
        cache = Decoding([rows.clone() for rows in kept], [0, 100, 9], counts)
        results.append(model(x, cache.positions, cache))
    assert error(results[1], results[0]) < 2e-2


def test_no_memory_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def docr_linear(self, *arguments: object) -> int:
            return 0

    monkeypatch.setattr(products, "library", Full)
    with pytest.raises(MemoryError, match="docr_linear"):
        products.linear(bf16(1, 64), bf16(2, 64))


@needs_library
def test_without_a_compiler_there_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with caplog.at_level(logging.INFO):
        assert library.library.__wrapped__() is None
    assert "no C compiler" in caplog.text


@needs_library
@pytest.mark.parametrize("answer", [0, 1])
def test_where_the_matrix_unit_is_not_to_be_had(
    answer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "amx.c"
    source.write_text(f"int docr_open_amx(void) {{ return {answer}; }}\n")
    asked = Code(sources=(source,), flags=("-shared", "-fPIC"), needs=())
    monkeypatch.setattr(library, "AMX", asked)
    loaded = library.load(tmp_path / "cache")
    assert hasattr(loaded, "docr_linear") is (answer == 0)  # the other form's, then
