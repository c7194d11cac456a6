"""The engine on a toy checkpoint: how pages end, what is recorded, and what happens when memory
runs out. Faults are put into the model; everything around it is the real thing."""

import dataclasses
import logging
import math
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from docr.engine.cache import Decoding
from docr.engine.config import EngineConfig
from docr.engine.detokenize import EOS, Detokenizer
from docr.engine.device import find_device, resolve_dtype
from docr.engine.engine import Engine, ModelEngine
from docr.engine.factory import create_engine, load_factory, resolved_dtype
from docr.engine.loops import PASSAGE, find_loop
from docr.engine.model.deepseek_ocr import DeepseekOCR
from docr.engine.model.load import load_model
from docr.engine.runner import Runner
from docr.errors import CheckpointError, DeviceError, OutOfMemory, UsageError
from docr.types import Completion, PageFailure, PageInputs
from scripts.make_random_checkpoint import toy_config, write_checkpoint
from tests.fakes.pages import page_inputs
from tests.fakes.tokenizer import write_tokenizer

Outcomes = dict[int, Completion | PageFailure]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy"))


def write_toy(folder: Path) -> Path:
    """A toy checkpoint with a short context."""
    config = toy_config()
    config["max_position_embeddings"] = 512
    config["language_config"]["max_position_embeddings"] = 512
    write_checkpoint(folder, config, seed=3)
    return folder


def toy_engine_config(toy: Path, **options: object) -> EngineConfig:
    defaults: dict[str, object] = {
        "device": "cpu",
        "dtype": "float32",
        "max_tokens": 20,
        "no_repeat_ngram": 3,
        "ngram_window": 40,
        "loop_stop": False,
    }
    return EngineConfig(model_dir=toy, **{**defaults, **options})


def run(engine: Engine, pages: Iterable[PageInputs]) -> Outcomes:
    """Feed the engine as it asks; every page must come back once."""
    waiting, outcomes = list(pages), dict[int, Completion | PageFailure]()
    expected = {page.ref.number for page in waiting}
    while waiting or engine.pending:
        while waiting and engine.wants():
            engine.add(waiting.pop(0))
        for outcome in engine.step():
            assert outcome.ref.number not in outcomes
            outcomes[outcome.ref.number] = outcome
    assert set(outcomes) == expected
    return outcomes


def completions(outcomes: Outcomes) -> dict[int, Completion]:
    done = {k: v for k, v in outcomes.items() if isinstance(v, Completion)}
    assert len(done) == len(outcomes), outcomes
    return done


def token_ids(outcomes: Outcomes) -> dict[int, tuple[int, ...]]:
    return {number: done.token_ids for number, done in completions(outcomes).items()}


def with_model(
    toy: Path, change: Callable[[DeepseekOCR], object], **options: object
) -> ModelEngine:
    """An engine whose model was changed after loading."""
    config = toy_engine_config(toy, **options)
    model = load_model(toy, device="cpu", dtype=torch.float32)
    changed = change(model)
    detokenizer = Detokenizer(toy / "tokenizer.json")
    model = changed if isinstance(changed, DeepseekOCR) else model
    return ModelEngine(config, Runner(model, detokenizer, config), detokenizer)


class TestHowPagesEnd:
    def test_at_the_token_limit(self, toy: Path) -> None:
        (done,) = completions(run(create_engine(toy_engine_config(toy)), [page_inputs(1)])).values()
        assert done.finish_reason == "length"
        assert len(done.token_ids) == 20

    def test_at_the_end_of_the_context(self, toy: Path) -> None:
        page = page_inputs(1, text=460)
        (done,) = completions(
            run(create_engine(toy_engine_config(toy, max_tokens=None)), [page])
        ).values()
        assert len(done.token_ids) == 512 - len(page.input_ids)

    def test_at_the_end_of_sequence(self, toy: Path) -> None:
        engine = create_engine(toy_engine_config(toy))
        (before,) = completions(run(engine, [page_inputs(1)])).values()
        chosen = before.token_ids[5]

        def end_instead(model: DeepseekOCR) -> None:
            eos = Detokenizer(toy / "tokenizer.json").eos_id
            head = model.lm_head.weight
            head[eos], head[chosen] = head[chosen].clone(), head[eos].clone()

        changed = with_model(toy, end_instead)
        (done,) = completions(run(changed, [page_inputs(1)])).values()
        ids = done.token_ids
        assert done.finish_reason == "stop"
        assert ids[:-1] == before.token_ids[: len(ids) - 1]
        assert EOS not in done.text
        assert done.text == Detokenizer(toy / "tokenizer.json").text(ids[:-1])

    def test_where_it_repeats_itself(self, toy: Path) -> None:
        def follow_the_last_token_only(model: DeepseekOCR) -> None:
            """So the same token always has the same successor, and the text runs in circles."""
            for name, weights in model.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj", "down_proj.weight")):
                    weights.zero_()

        options = {"no_repeat_ngram": 0, "max_tokens": 180}
        pages = [page_inputs(number) for number in (1, 2)]
        endless = with_model(toy, follow_the_last_token_only, **options)
        free = completions(run(endless, pages))
        engine = with_model(toy, follow_the_last_token_only, **options, loop_stop=True)
        for number, done in completions(run(engine, pages)).items():
            assert free[number].finish_reason == "length"
            assert done.finish_reason == "repetition"
            assert done.token_ids == free[number].token_ids[: len(done.token_ids)]
            kept = find_loop(done.token_ids)
            assert kept is not None and kept <= len(done.token_ids) - PASSAGE
            text = Detokenizer(engine.info.tokenizer_file).text(done.token_ids[:kept])
            assert done.text == text

    def test_a_prompt_that_fills_the_context_is_a_failure(self, toy: Path) -> None:
        engine = create_engine(toy_engine_config(toy))
        outcomes = run(engine, [page_inputs(1, text=510), page_inputs(2)])
        failure = outcomes[1]
        assert isinstance(failure, PageFailure)
        assert (failure.stage, failure.code) == ("generate", "too-large")
        assert isinstance(outcomes[2], Completion)


def with_layers(pages: Iterable[PageInputs], layers: Iterable[Iterable[int]]) -> list[PageInputs]:
    """The same pages with text layers of these ids."""
    return [
        dataclasses.replace(page, layer_ids=np.array(list(ids), np.int64))
        for page, ids in zip(pages, layers, strict=True)
    ]


class TestDrafts:
    """Guesses change the steps and not the text, whatever they are guesses at."""

    PAGES = 5

    def runs(self, toy: Path, layers: list[list[int]], **options: object) -> list[Outcomes]:
        pages = [page_inputs(number) for number in range(1, self.PAGES + 1)]
        options = {"max_tokens": 60, "ngram_window": 60, **options}
        plain = run(create_engine(toy_engine_config(toy, drafts=False, **options)), pages)
        engine = create_engine(toy_engine_config(toy, **options))
        return [plain, run(engine, with_layers(pages, layers))]

    def truths(self, toy: Path, **options: object) -> list[list[int]]:
        (plain, _) = self.runs(toy, [[]] * self.PAGES, **options)
        return [list(plain[number].token_ids) for number in range(1, self.PAGES + 1)]

    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_the_text_is_the_same(self, toy: Path, batch_size: int) -> None:
        exact, *truths = self.truths(toy, batch_size=batch_size)
        random = np.random.default_rng(0)
        layers = [exact]
        for spoilt, truth in zip((3, 5, 9, 2), truths, strict=True):  # one token in so many
            wrong = random.integers(300, size=len(truth)).tolist()
            layers.append([t if i % spoilt else wrong[i] for i, t in enumerate(truth)])
        plain, drafted = self.runs(toy, layers, batch_size=batch_size)
        assert token_ids(drafted) == token_ids(plain)
        for number, done in completions(drafted).items():
            before = completions(plain)[number]
            assert (done.text, done.finish_reason) == (before.text, before.finish_reason)
            assert done.mean_logprob == pytest.approx(before.mean_logprob, abs=1e-5)
            assert done.min_logprob == pytest.approx(before.min_logprob, abs=1e-5)
            assert before.drafted == before.accepted == 0
        assert completions(drafted)[1].accepted > 45, "an exact layer hardly helped"
        assert completions(drafted)[1].accepted == completions(drafted)[1].drafted

    def test_a_page_ends_in_the_middle_of_a_draft(self, toy: Path) -> None:
        truths = self.truths(toy)
        for most in (7, 8, 11, 30):
            plain, drafted = self.runs(toy, truths, max_tokens=most)
            assert token_ids(drafted) == token_ids(plain)
            assert all(len(ids) == most for ids in token_ids(drafted).values())

    def test_with_a_cache_that_hardly_suffices(
        self, toy: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Rows grow, pages are put back and prefilled again, drafts or not."""
        monkeypatch.setattr("docr.engine.scheduler.BLOCK", 16)
        monkeypatch.setattr("docr.engine.runner.BLOCK", 16)
        monkeypatch.setattr("docr.engine.scheduler.HEADROOM", 8)
        truths = self.truths(toy)
        plain, drafted = self.runs(toy, truths, cache_tokens=160, batch_size=3)
        assert token_ids(drafted) == token_ids(plain)
        assert {k + 1: ids for k, ids in enumerate(map(tuple, truths))} == token_ids(drafted)


class TestWhatIsRecorded:
    def test_logprobs_are_those_of_the_model_over_what_can_be_decoded(self, toy: Path) -> None:
        engine = create_engine(toy_engine_config(toy))
        page = page_inputs(1, base_px=192, tile_px=128, grid=(2, 1))
        (done,) = completions(run(engine, [page])).values()
        chosen = reference_logprobs(toy, page, done.token_ids)
        assert done.mean_logprob == pytest.approx(float(chosen.mean()), abs=1e-4)
        assert done.min_logprob == pytest.approx(float(chosen.min()), abs=1e-4)

    def test_without_the_ngram_rule_the_choice_is_the_likeliest(self, toy: Path) -> None:
        engine = create_engine(toy_engine_config(toy, no_repeat_ngram=0))
        page = page_inputs(1, grid=(1, 2))
        (done,) = completions(run(engine, [page])).values()
        logprobs = reference_distribution(toy, page, done.token_ids)
        assert tuple(logprobs.argmax(-1).tolist()) == done.token_ids

    def test_the_ngram_rule_holds(self, toy: Path) -> None:
        engine = create_engine(toy_engine_config(toy, max_tokens=120, ngram_window=120))
        (done,) = completions(run(engine, [page_inputs(1)])).values()
        ids = done.token_ids
        grams = [ids[i : i + 3] for i in range(len(ids) - 2)]
        exempt = Detokenizer(toy / "tokenizer.json").cell_ids
        repeated = {gram for gram in grams if grams.count(gram) > 1}
        assert all(gram[-1] in exempt for gram in repeated)

    def test_rows_without_a_token_are_never_chosen(self, toy: Path) -> None:
        def favour_the_last_rows(model: DeepseekOCR) -> None:
            model.lm_head.weight[300:] *= 50

        engine = with_model(toy, favour_the_last_rows, no_repeat_ngram=0)
        mask = Detokenizer(toy / "tokenizer.json").undecodable(320)
        assert mask[300:].all() and not mask[:270].any()
        for done in completions(run(engine, [page_inputs(i) for i in (1, 2, 3)])).values():
            assert not mask[list(done.token_ids)].any()
            assert math.isfinite(done.mean_logprob)

    def test_seconds_are_shared_out_by_stage(self, toy: Path) -> None:
        engine = create_engine(toy_engine_config(toy))
        for done in completions(run(engine, [page_inputs(i) for i in (1, 2)])).values():
            assert set(done.seconds) == {"vision", "prefill", "decode"}
            assert all(seconds > 0 for seconds in done.seconds.values())

    def test_info(self, toy: Path) -> None:
        config = toy_engine_config(toy, model_name="toy", revision="r1", batch_size=3)
        info = create_engine(config).info
        assert (info.model_name, info.revision) == ("toy", "r1")
        assert (info.device, info.dtype, info.max_batch_pages) == ("cpu", "float32", 3)
        assert info.tokenizer_file == toy / "tokenizer.json"

    def test_it_asks_for_as_many_pages_as_it_can_use(self, toy: Path) -> None:
        engine = create_engine(toy_engine_config(toy, batch_size=4))
        assert (engine.wants(), engine.pending) == (6, 0)
        for number in range(1, 7):
            engine.add(page_inputs(number))
        assert (engine.wants(), engine.pending) == (0, 6)
        assert engine.step() == []
        engine.close()


def reference_distribution(toy: Path, page: PageInputs, ids: tuple[int, ...]) -> Tensor:
    """Log-probabilities [T,vocabulary] before each generated token: one pass, no cache."""
    model = load_model(toy, device="cpu", dtype=torch.float32)
    with torch.inference_mode():
        views = page.views
        overview = model.encode_views(torch.from_numpy(views.global_view)[None])[0]
        tiles = model.encode_views(torch.from_numpy(views.tiles)) if len(views.tiles) else overview
        vision = model.image_sequence(overview, tiles, views.grid)
        x = model.embed(torch.tensor([[*page.input_ids.tolist(), *ids[:-1]]]))
        x[0, : len(page.image_mask)][torch.from_numpy(page.image_mask)] = vision
        hidden = model(x, torch.arange(x.shape[1])[None], None)
        logits = model.logits(hidden[0, len(page.input_ids) - 1 :])
    undecodable = torch.from_numpy(Detokenizer(toy / "tokenizer.json").undecodable(320))
    return logits.masked_fill(undecodable, -torch.inf).log_softmax(-1)


def reference_logprobs(toy: Path, page: PageInputs, ids: tuple[int, ...]) -> Tensor:
    return reference_distribution(toy, page, ids)[range(len(ids)), list(ids)]


class CrampedModel(DeepseekOCR):
    """Runs out of memory on too many views, prompts or decoded pages at once."""

    most_views = most_prompts = most_pages = 100
    attempts: list[tuple[str, int]]

    def encode_views(self, views: Tensor) -> Tensor:
        self._allow("vision", len(views), self.most_views)
        return super().encode_views(views)

    def forward(self, x: Tensor, positions: Tensor, cache: object = None) -> Tensor:
        if isinstance(cache, Decoding):
            self._allow("decode", len(cache.starts) - 1, self.most_pages)
        else:
            self._allow("prefill", len(x), self.most_prompts)
        return super().forward(x, positions, cache)  # type: ignore[arg-type]

    def _allow(self, stage: str, size: int, most: int) -> None:
        self.attempts.append((stage, size))
        if size > most:
            raise torch.OutOfMemoryError(f"fake device: no room for {size}")


def cramped(attempts: list[tuple[str, int]], **limits: int) -> Callable[[DeepseekOCR], DeepseekOCR]:
    """Make a model run out of memory; its calls, with their batch sizes, go to `attempts`."""

    def change(model: DeepseekOCR) -> DeepseekOCR:
        small = CrampedModel(model.config)
        small.load_state_dict(model.state_dict())
        small.attempts = attempts
        for name, value in limits.items():
            setattr(small, name, value)
        return small.requires_grad_(False).eval()

    return change


PAGES = tuple(page_inputs(number) for number in range(1, 9))


@pytest.fixture(scope="module")
def plenty(toy: Path) -> dict[int, tuple[int, ...]]:
    """What PAGES say where memory is plenty."""
    return token_ids(run(create_engine(toy_engine_config(toy, batch_size=8)), PAGES))


class TestOutOfMemory:
    @pytest.mark.parametrize(
        ("stage", "limit"),
        [("vision", "most_views"), ("prefill", "most_prompts"), ("decode", "most_pages")],
    )
    def test_halves_the_batch_and_goes_on(
        self,
        stage: str,
        limit: str,
        toy: Path,
        plenty: dict[int, tuple[int, ...]],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        attempts: list[tuple[str, int]] = []
        engine = with_model(toy, cramped(attempts, **{limit: 3}), batch_size=8)
        with caplog.at_level(logging.WARNING):
            assert token_ids(run(engine, PAGES)) == plenty
        sizes = [size for name, size in attempts if name == stage]
        assert sizes[:3] == [8, 4, 2], "and it remembers:"
        assert max(sizes[3:]) <= 2
        assert sum("out of memory" in record.message for record in caplog.records) == 2

    @pytest.mark.parametrize("limit", ["most_views", "most_prompts", "most_pages"])
    def test_a_page_that_does_not_fit_alone_is_a_failure(self, limit: str, toy: Path) -> None:
        engine = with_model(toy, cramped([], **{limit: 0}), batch_size=2)
        outcomes = run(engine, PAGES[:3])
        for outcome in outcomes.values():
            assert isinstance(outcome, PageFailure)
            assert (outcome.stage, outcome.code) == ("generate", "out-of-memory")

    def test_a_tile_that_does_not_fit_takes_its_page_along_and_no_other(self, toy: Path) -> None:
        class NoLargeViews(CrampedModel):
            def encode_views(self, views: Tensor) -> Tensor:
                self._allow("vision", views.shape[-1], 128)
                return DeepseekOCR.encode_views(self, views)

        def change(model: DeepseekOCR) -> DeepseekOCR:
            small = cramped([])(model)
            small.__class__ = NoLargeViews
            return small

        engine = with_model(toy, change)
        large = page_inputs(1, base_px=192, tile_px=128, grid=(2, 1))
        outcomes = run(engine, [large, page_inputs(2)])
        assert isinstance(outcomes[1], PageFailure) and isinstance(outcomes[2], Completion)

    def test_a_cpu_allocation_that_fails_counts_too(self, toy: Path) -> None:
        class Greedy(DeepseekOCR):
            def encode_views(self, views: Tensor) -> Tensor:
                torch.empty(1 << 50)
                return super().encode_views(views)

        def change(model: DeepseekOCR) -> DeepseekOCR:
            greedy = Greedy(model.config)
            greedy.load_state_dict(model.state_dict())
            return greedy

        outcomes = run(with_model(toy, change), [page_inputs(1)])
        assert isinstance(outcomes[1], PageFailure) and outcomes[1].code == "out-of-memory"

    def test_a_page_too_long_for_the_cache_is_a_failure(self, toy: Path) -> None:
        engine = create_engine(toy_engine_config(toy, cache_tokens=256, max_tokens=250))
        outcomes = run(engine, [page_inputs(1, text=200), page_inputs(2, text=8)])
        assert isinstance(outcomes[1], PageFailure) and outcomes[1].code == "out-of-memory"
        # 250 tokens more than its prompt of 16 do not fit either.
        assert isinstance(outcomes[2], PageFailure) and outcomes[2].code == "out-of-memory"

    def test_other_errors_are_not_swallowed(self, toy: Path) -> None:
        class Broken(DeepseekOCR):
            def encode_views(self, views: Tensor) -> Tensor:
                raise RuntimeError("a bug")

        def change(model: DeepseekOCR) -> DeepseekOCR:
            broken = Broken(model.config)
            broken.load_state_dict(model.state_dict())
            return broken

        engine = with_model(toy, change)
        engine.add(page_inputs(1))
        with pytest.raises(RuntimeError, match="a bug"):
            engine.step()


def test_a_page_of_numbers_that_are_none_fails_alone(toy: Path) -> None:
    poison = 310  # has no token: it is never generated

    def change(model: DeepseekOCR) -> None:
        model.embed_tokens[poison] = torch.nan

    pages = [page_inputs(i, text=[20 + i] * 8) for i in (1, 2, 3, 4)]
    pages[1] = page_inputs(2, text=[20, 21, poison, 22])
    outcomes = run(with_model(toy, change, batch_size=2), pages)
    failure = outcomes.pop(2)
    assert isinstance(failure, PageFailure) and failure.code == "internal"
    healthy = run(with_model(toy, change, batch_size=1), [pages[0], *pages[2:]])
    assert token_ids(outcomes) == token_ids(healthy)


class TestMaking:
    def test_without_a_tokenizer(self, toy: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
            create_engine(EngineConfig(model_dir=tmp_path, device="cpu"))

    def test_with_a_tokenizer_of_another_model(self, tmp_path: Path) -> None:
        path = tmp_path / "tokenizer.json"
        write_tokenizer(path)
        path.write_text(path.read_text(encoding="utf-8").replace("end▁of", "end_of"))
        with pytest.raises(CheckpointError, match="end▁of▁sentence"):
            Detokenizer(path)

    def test_on_a_device_that_is_not_there(self, toy: Path) -> None:
        if torch.cuda.is_available():
            pytest.skip("this machine has a CUDA device")
        for device in ("cuda", "cuda:3"):
            with pytest.raises(DeviceError, match="try --device cpu"):
                create_engine(toy_engine_config(toy, device=device))

    @pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:0", "", "cuda:-1"])
    def test_on_a_device_that_is_none(self, name: str) -> None:
        with pytest.raises(UsageError, match="--device"):
            find_device(name)

    def test_dtypes(self, toy: Path) -> None:
        cpu = torch.device("cpu")
        assert resolve_dtype("float16", cpu) == torch.float16
        assert resolve_dtype("auto", cpu) in (torch.bfloat16, torch.float32)
        assert resolved_dtype(toy_engine_config(toy)) == "float32"
        engine = create_engine(toy_engine_config(toy, dtype="bfloat16"))
        assert engine.info.dtype == "bfloat16"
        completions(run(engine, [page_inputs(1)]))

    def test_with_too_little_memory(self, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("docr.engine.runner.free_bytes", lambda device: 1000)
        with pytest.raises(OutOfMemory, match="too little"):
            create_engine(toy_engine_config(toy))

    def test_memory_bounds_the_cache(self, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        token = 2 * 3 * 64 * 4  # keys and values, layers, width, bytes
        monkeypatch.setattr("docr.engine.runner.free_bytes", lambda device: 2 * 5000 * token)
        model = load_model(toy, device="cpu", dtype=torch.float32)
        runner = Runner(model, Detokenizer(toy / "tokenizer.json"), toy_engine_config(toy))
        assert 5000 - 256 < runner.cache_tokens <= 5000
        assert runner.max_pages == 4, "of 1,000 tokens and more"

    @pytest.mark.parametrize(
        "name", ["", "tests.fakes.engines", ":echo", "no.such:thing", "tests.fakes.engines:nothing",
                 "tests.fakes.engines:BAD_NUMBER", "...:x"]
    )  # fmt: skip
    def test_factories_that_are_none(self, name: str) -> None:
        with pytest.raises(UsageError, match="engine"):
            load_factory(name)

    @pytest.mark.parametrize("option", ["batch_size", "max_tokens", "threads", "cache_tokens"])
    def test_limits_of_nothing_are_refused(self, option: str) -> None:
        with pytest.raises(UsageError, match=option):
            EngineConfig(model_dir=None, **{option: 0})


class TestFakes:
    CONFIG = EngineConfig(model_dir=None, model_name="fake")

    def test_a_fake_is_an_engine(self) -> None:
        pages = [page_inputs(number) for number in range(1, 30)]
        outcomes = completions(run(load_factory("tests.fakes.engines:echo")(self.CONFIG), pages))
        assert len({done.text for done in outcomes.values()}) == len(pages)
        again = run(load_factory("tests.fakes.engines:slow_echo")(self.CONFIG), pages[::-1])
        assert again == outcomes

    def test_what_it_says_is_what_its_tokens_say(self) -> None:
        engine = load_factory("tests.fakes.engines:echo")(self.CONFIG)
        (done,) = completions(run(engine, [page_inputs(1)])).values()
        detokenizer = Detokenizer(engine.info.tokenizer_file)
        assert done.token_ids[-1] == detokenizer.eos_id
        assert detokenizer.text(done.token_ids[:-1]) == done.text

    def test_out_of_memory(self) -> None:
        engine = load_factory("tests.fakes.engines:out_of_memory")(self.CONFIG)
        outcomes = run(engine, [page_inputs(number) for number in range(1, 7)])
        failed = {n for n, outcome in outcomes.items() if isinstance(outcome, PageFailure)}
        assert failed == {3, 6}

    def test_babble(self) -> None:
        engine = load_factory("tests.fakes.engines:babble")(self.CONFIG)
        (done,) = completions(run(engine, [page_inputs(1)])).values()
        assert (len(done.text), done.finish_reason) == (1_000_000, "length")

    def test_a_lost_device(self) -> None:
        engine = load_factory("tests.fakes.engines:raises")(self.CONFIG)
        with pytest.raises(DeviceError):
            run(engine, [page_inputs(number) for number in (1, 2, 3)])

    def test_no_fake_loads_torch(self) -> None:
        code = (
            "import sys\n"
            "from docr.engine.config import EngineConfig\n"
            "from docr.engine.factory import load_factory\n"
            "load_factory('tests.fakes.engines:echo')(EngineConfig(model_dir=None))\n"
            "assert 'torch' not in sys.modules and 'accelerate' not in sys.modules\n"
        )
        root = Path(__file__).parents[2]
        subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=60)
