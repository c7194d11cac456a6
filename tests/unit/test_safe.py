"""Markdown that only shows: what is spelled anew, and what stays."""

import pytest

from docr.modes.safe import safe_markdown


@pytest.mark.parametrize(
    "text",
    [
        *("", "a < b", "a<b", "1 < 2 > 0", "p<0.05", "a <- b <= c", "x <", "<<", "<$>", "AT&T"),
        *("&amp;", "&lt;b>", "$a<b$", "$$a <\nb$$", r"\(a<b\)", r"\[ x[1] < y \]", "a > b"),
        *("[1]", "[1], [2]", "as in [12]: no", "f[x] (y)", r"\[x\]", "a ] : b", "![", "- [ ] do"),
        *("# Title", "* a\n* b", "1. a", "> a", "a | b\n--|--\n1 | 2", "*a* **b** _c_ `d`"),
        *("https://example.com", "me@example.org", "javascript:alert(1)", "C:\\x"),
        *("```\n<b>\n```", "~~~\n[x](y)\n~~~", "```c++\n#include <a.h>\n```\n\nb", "```x``` y"),
        "<table><tr><td>a</td><td>b</td></tr></table>",
        '<table>\n<thead><tr><th colspan="2">a</th></tr></thead>\n<tbody></tbody></table>',
        "<TABLE><tr><td rowspan=2 colspan='13'>a < b</td><td ></td/></tr></TABLE>",
        "<td>a</td><tr>b</tr>",
    ],
)
def test_what_stays(text: str) -> None:
    assert safe_markdown(text) == text


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("a <y> b", "a &lt;y> b"),
        ("<img src=x onerror=alert(1)", "&lt;img src=x onerror=alert(1)"),  # no end: a block's
        ("> - 1. <div onclick=x", "> - 1. &lt;div onclick=x"),
        ("<!-- page 2 -->", "&lt;!-- page 2 -->"),
        ("<?php x ?>", "&lt;?php x ?>"),
        ("<![CDATA[x]]>", "&lt;![CDATA[x]]>"),
        ("\\<b> \\\\<b>", "&lt;b> \\\\&lt;b>"),
        ("<a\nhref=x>y</a\n>", "&lt;a\nhref=x>y&lt;/a\n>"),
        ('<td onclick="x">', '&lt;td onclick="x">'),
        ('<td colspan="x">', '&lt;td colspan="x">'),
        ("<td colspan=99999>", "&lt;td colspan=99999>"),
        ("<td\ncolspan=2>", "&lt;td\ncolspan=2>"),
        ("<tdx>", "&lt;tdx>"),
        ("<td>a <img src=x </td>", "<td>a &lt;img src=x </td>"),
        ("<td>$a<b$</td>", "<td>$a< b$</td>"),
        ("<https://example.com>", "&lt;https://example.com>"),
        ("<me@example.org> <5@b.c>", "&lt;me@example.org> &lt;5@b.c>"),
    ],
)
def test_html_shows(text: str, safe: str) -> None:
    assert safe_markdown(text) == safe


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("$a<b>c$", "$a< b>c$"),
        (r"\(a<b\) and c>d", r"\(a< b\) and c>d"),
        ("\\[\na<b>c\n\\]", "\\[\na< b>c\n\\]"),
        ("the `<div>` element", "the `< div>` element"),
        ("$ 5 <b> and `c <d>", "$ 5 &lt;b> and `c &lt;d>"),
    ],
)
def test_formulas_and_code_in_a_line_get_a_space(text: str, safe: str) -> None:
    assert safe_markdown(text) == safe


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("[x](javascript:alert(1))", "[x] (javascript:alert(1))"),
        ("![](http://example.com/a.png)", "![] (http://example.com/a.png)"),
        ("[![a](b)](c)", "[![a] (b)] (c)"),
        ("[x](<../../y> 'z')", "[x] (<../../y> 'z')"),
        ("[x](\\\\host\\y)", "[x] (\\\\host\\y)"),
        ("[x](java&#x73;cript:y)", "[x] (java&#x73;cript:y)"),
        ("[x][y]\n\n[y]: ../../z", "[x][y]\n\n[y] : ../../z"),
        ("> 1. [y]: z", "> 1. [y] : z"),
        ("[a\\]b]: x", "[a\\]b] : x"),
        ("[a\nb \\[c]: x", "[a\nb \\[c] : x"),
        (r"\(f[x](y)\)", r"\(f[x] (y)\)"),
    ],
)
def test_links_show(text: str, safe: str) -> None:
    assert safe_markdown(text) == safe


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("a\n```\n<b>\n```\n<b>", "a\n\n```\n<b>\n```\n&lt;b>"),
        ("<td>\n```\n<b>\n```", "<td>\n\n```\n<b>\n```"),
        ("```\n<b>", "```\n<b>\n```"),  # cut off by the token limit
        ("````\n```\n<b>\n~~~~", "````\n```\n<b>\n~~~~\n````"),
        ("- ```\n  <b>\n  ```", "- \\```\n  &lt;b>\n  \\```"),
        ("``` a b\n<b>", "\\``` a b\n&lt;b>"),
        ("~~~\n```\n~~~\n<b>\n```", "~~~\n```\n~~~\n&lt;b>\n\n```\n```"),
    ],
)
def test_fenced_code(text: str, safe: str) -> None:
    assert safe_markdown(text) == safe
