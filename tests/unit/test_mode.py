"""Modes: token counts as the model and as the paper have them."""

import pickle
from typing import get_args

import pytest

from docr.errors import UsageError
from docr.modes.mode import MODES, Mode
from docr.settings import ModeName


def test_every_name_has_a_mode() -> None:
    assert tuple(MODES) == get_args(ModeName)
    assert all(mode.name == name for name, mode in MODES.items())


@pytest.mark.parametrize(
    ("name", "sequence", "paper"),
    [("tiny", 73, 64), ("small", 111, 100), ("base", 273, 256), ("large", 421, 400)],
)
def test_native_modes_cost_what_the_paper_says(name: ModeName, sequence: int, paper: int) -> None:
    assert MODES[name].num_vision_tokens((1, 1)) == sequence
    assert MODES[name].paper_tokens((1, 1)) == paper


@pytest.mark.parametrize(
    ("grid", "sequence"),
    [
        ((1, 1), 273),
        ((2, 1), 483),
        ((1, 2), 493),
        ((2, 3), 903),
        ((3, 2), 893),
        ((6, 1), 883),
        ((1, 6), 933),
        ((9, 1), 1183),
        ((1, 9), 1263),
        ((3, 3), 1203),
    ],
)
def test_gundam_counts_a_newline_for_each_row_over_all_columns(
    grid: tuple[int, int], sequence: int
) -> None:
    assert MODES["gundam"].num_vision_tokens(grid) == sequence


def test_gundam_paper_counts() -> None:
    assert MODES["gundam"].paper_tokens((1, 1)) == 256
    assert MODES["gundam"].paper_tokens((3, 3)) == 1156  # "DeepSeek-OCR (9-crops)", OCR-2 paper
    assert MODES["gundam-m"].paper_tokens((1, 1)) == 400
    assert MODES["gundam-m"].paper_tokens((2, 3)) == 6 * 256 + 400
    assert MODES["gundam-m"].num_vision_tokens((2, 3)) == 421 + 48 * 33


def test_only_gundam_m_is_untrained() -> None:
    assert [name for name, mode in MODES.items() if not mode.trained] == ["gundam-m"]


def test_valid_tokens_leave_out_the_padding() -> None:
    a4 = (1240, 1754)
    assert MODES["base"].valid_tokens(a4, (1, 1)) == 181  # ceil(256 * 1240 / 1754)
    assert MODES["base"].valid_tokens((1754, 1240), (1, 1)) == 181
    assert MODES["large"].valid_tokens((500, 500), (1, 1)) == 400
    assert MODES["small"].valid_tokens(a4, (1, 1)) == 100  # stretched: no padding
    assert MODES["gundam"].valid_tokens(a4, (2, 3)) == 600 + 181


def test_max_tiles_can_be_lowered_in_tiled_modes_only() -> None:
    assert MODES["gundam"].max_tiles == 9
    assert MODES["gundam"].with_max_tiles(6).max_tiles == 6
    assert MODES["gundam"].max_tiles == 9
    assert MODES["base"].with_max_tiles(6) == MODES["base"]


@pytest.mark.parametrize("count", [-1, 0, 1, 10, 32])
@pytest.mark.parametrize("name", ["gundam", "base"])
def test_max_tiles_out_of_bounds_is_refused(name: ModeName, count: int) -> None:
    with pytest.raises(UsageError, match="2 to 9"):
        MODES[name].with_max_tiles(count)


def test_a_native_mode_has_no_tiles_to_count() -> None:
    with pytest.raises(AssertionError):
        MODES["base"].num_vision_tokens((2, 2))


def test_a_mode_travels_to_the_rendering_processes() -> None:
    mode = MODES["gundam"].with_max_tiles(6)
    copy: Mode = pickle.loads(pickle.dumps(mode))
    assert copy == mode
