import pytest

from docr.errors import UsageError
from docr.pdf.pages import parse_page_ranges


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("1", (0,)),
        ("1-3,7,10-", (0, 1, 2, 6, 9, 10, 11)),
        ("7,1-3,2", (0, 1, 2, 6)),  # sorted, each once
        (" 2 - 4 , 12 ", (1, 2, 3, 11)),
        ("5-5", (4,)),
        ("11-999999999", (10, 11)),
        ("13,20-", ()),  # the document is shorter
    ],
)
def test_ranges_choose_pages(text: str, chosen: tuple[int, ...]) -> None:
    assert parse_page_ranges(text).select(12) == chosen


@pytest.mark.parametrize(
    "text",
    ["", ",", "1,", "0", "0-3", "3-1", "-3", "a", "1-b", "1.5", "1--3", "1 2", "9" * 10, "１x"],
)
def test_other_texts_are_usage_errors(text: str) -> None:
    with pytest.raises(UsageError, match="--pages"):
        parse_page_ranges(text)


def test_an_empty_document_has_nothing_to_choose() -> None:
    assert parse_page_ranges("1-").select(0) == ()
