"""Settings in layers, and errors that name the place of the mistake."""

from pathlib import Path

import pytest

from docr.cli.config import configure, setting_names, user_file
from docr.errors import IncompatibleError, UsageError
from docr.pdf.settings import RenderSettings
from docr.rendering import render_settings
from docr.settings import Settings


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and an empty user configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def _user_config(text: str) -> None:
    user_file().parent.mkdir(parents=True)
    user_file().write_text(text, encoding="utf-8")


def test_nothing_said_is_the_default() -> None:
    configured = configure({"mode": None, "include": None}, environ={})
    assert (configured.settings.mode, configured.settings.task) == (None, None)
    assert configured.out is None
    unsaid = {"mode": "the model's", "task": "the model's"}
    assert configured.origins == dict.fromkeys(configured.origins, "default") | unsaid


def test_flag_beats_variable_beats_project_beats_user() -> None:
    _user_config('[convert]\nmode = "tiny"\ndpi = 100\nmax-tiles = 3\nstrict = true\n')
    Path("docr.toml").write_text('[convert]\nmode = "small"\ndpi = 200\nmax_tiles = 4\n')
    environ = {"DOCR_MODE": "base", "DOCR_DPI": "300", "PATH": "/bin"}
    configured = configure({"mode": "large", "dpi": None}, environ=environ)
    settings = configured.settings
    assert (settings.mode, settings.dpi, settings.max_tiles, settings.strict) == (
        "large",
        300.0,
        4,
        True,
    )
    assert configured.origins["mode"] == "flag"
    assert configured.origins["dpi"] == "DOCR_DPI"
    assert configured.origins["max_tiles"] == "docr.toml"
    assert configured.origins["strict"] == str(user_file())
    assert configured.files == (user_file(), Path("docr.toml"))


def test_config_option_replaces_both_files() -> None:
    _user_config('[convert]\nmode = "tiny"\n')
    Path("docr.toml").write_text("[convert]\ndpi = 200\n")
    Path("mine.toml").write_text('[convert]\ntask = "ocr"\nout = "there"\n')
    configured = configure({}, config=Path("mine.toml"), environ={})
    assert (configured.settings.mode, configured.settings.dpi) == (None, None)
    assert (configured.settings.task, configured.out) == ("ocr", "there")


def test_a_flag_undoes_what_a_file_says() -> None:
    Path("docr.toml").write_text('[convert]\nstrict = true\nbatch-size = 4\ninclude = ["a*"]\n')
    configured = configure({"strict": False, "batch_size": "auto"}, environ={})
    assert configured.settings.strict is False
    assert configured.settings.batch_size is None
    assert configured.settings.include == ("a*",)
    assert configured.origins["batch_size"] == "flag"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("HEADER_FOOTER", "off", False),
        ("KEEP_TOKENS", "1", True),
        ("DTYPE", "bf16", "bfloat16"),
        ("BATCH_SIZE", "auto", None),
        ("BATCH_SIZE", "12", 12),
        ("PAGE_TIMEOUT", "2.5", 2.5),
        ("EXCLUDE", "a/*,*.tmp", ("a/*", "*.tmp")),
        ("QUERY", "", ""),
        ("ENGINE", "tests.fakes:echo", "tests.fakes:echo"),
    ],
)
def test_variables_are_text_of_any_type(name: str, text: str, value: object) -> None:
    settings = configure({}, environ={f"DOCR_{name}": text}).settings
    assert getattr(settings, name.lower()) == value


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[convert]\nmoed = 1\n", "unknown key 'moed'; did you mean mode?"),
        ("[convert]\nxyzzy = 1\n", "unknown key 'xyzzy'"),
        ('mode = "base"\n', "[convert]"),
        ("convert = 1\n", "[convert]"),
        ('[convert]\nmode = "bse"\n', "did you mean base?"),
        ('[convert]\ndtype = "int8"\n', "bfloat16"),
        ("[convert]\nmode = 3\n", "one of tiny"),
        ('[convert]\nmax-tiles = "3"\n', "a whole number"),
        ("[convert]\nmax-tiles = true\n", "a whole number"),
        ('[convert]\nmax-tokens = "5"\n', "a whole number"),
        ("[convert]\nmax-tiles = 12\n", "--max-tiles is 2 to 9"),
        ("[convert]\ndpi = nan\n", "--dpi"),
        ('[convert]\ninclude = "a"\n', "a list of strings"),
        ("[convert]\ninclude = [1]\n", "a list of strings"),
        ("[convert]\npages = 3\n", "a string"),
        ("[convert\n", "not TOML"),
        ("\xff", "not TOML"),
    ],
)
def test_mistakes_in_a_file_name_the_file(content: str, words: str) -> None:
    Path("docr.toml").write_bytes(content.encode("latin-1"))
    with pytest.raises(IncompatibleError) as caught:
        configure({}, environ={})
    assert "docr.toml" in str(caught.value) and words in str(caught.value)
    assert caught.value.exit_code == 8


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("DOCR_MOED", "base", "did you mean DOCR_MODE?"),
        ("DOCR_PAGE_TIMEUOT", "3", "did you mean DOCR_PAGE_TIMEOUT?"),
        ("DOCR_STRICT", "maybe", "true or false"),
        ("DOCR_GPUS", "two", "a whole number"),
        ("DOCR_GPUS", "0", "--gpus is 1 or more"),
    ],
)
def test_mistakes_in_the_environment_name_the_variable(
    variable: str, text: str, words: str
) -> None:
    with pytest.raises(IncompatibleError) as caught:
        configure({}, environ={variable: text})
    assert variable in str(caught.value) and words in str(caught.value)


def test_a_file_that_is_named_must_be_there() -> None:
    with pytest.raises(IncompatibleError, match=r"nowhere\.toml"):
        configure({}, config=Path("nowhere.toml"), environ={})


def test_flags_are_checked_as_usage() -> None:
    for flags in ({"dtype": "int8"}, {"batch_size": "many"}, {"task": "locate"}):
        with pytest.raises(UsageError):
            configure(flags, environ={})


def test_settings_that_belong_together_may_stand_apart() -> None:
    Path("docr.toml").write_text('[convert]\ntask = "locate"\n')
    settings = configure({"query": "the stamp"}, environ={}).settings
    assert (settings.task, settings.query) == ("locate", "the stamp")


def test_names_are_the_long_options() -> None:
    assert {"out", "header-footer", "no-repeat-ngram"} < set(setting_names())
    assert "engine" not in setting_names()  # hidden


def test_limits_reach_the_children() -> None:
    limits = {
        "page_timeout": 7.0,
        "max_pixels": 1_000_000,
        "max_image_pixels": 5,
        "max_aspect": 9.0,
        "require_sandbox": True,
    }
    settings = Settings(
        mode="tiny", page_memory=2.5, max_content_mib=5, max_pages_per_file=3, **limits
    )  # type: ignore[arg-type]
    assert render_settings(settings) == RenderSettings(
        min_edge_px=512,
        memory_limit=2_500_000_000,
        max_content=5 << 20,
        max_pages=3,
        **limits,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    "limit",
    [
        *({"max_pixels": 9_999}, {"max_aspect": 0.5}, {"max_aspect": 1001}, {"page_memory": 1}),
        *({"max_image_pixels": 0}, {"max_pages_per_file": 0}, {"max_content_mib": 0}),
    ],
    ids=str,
)
def test_limits_have_limits(limit: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(limit)).replace("_", "-")):
        Settings(**limit)  # type: ignore[arg-type]
