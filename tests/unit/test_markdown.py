from docr.output.markdown import joined


def test_pages_are_joined_in_order_with_their_states():
    pages = [
        (1, "ok", "# Title\n"),
        (2, "blank", ""),
        (3, "failed:page-timeout", None),
        (4, "truncated", "cut\n"),
    ]
    assert "".join(joined(pages)) == (
        "<!-- page 1 -->\n\n# Title\n\n"
        "<!-- page 2: blank -->\n\n"
        "<!-- page 3: failed:page-timeout -->\n\n"
        "<!-- page 4: truncated -->\n\ncut\n"
    )


def test_nothing_joins_to_nothing():
    assert "".join(joined([])) == ""
