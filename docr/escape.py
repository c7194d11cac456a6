r"""Foreign text on one line of ours: names of files, messages of libraries, what a model wrote."""

import re

UNPRINTABLE = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff"
"""For a class in a regular expression. Controls move the cursor, bidi marks reorder what is read,
and lone surrogates (undecodable bytes of a file name) cannot be encoded at all."""

_UNPRINTABLE = re.compile(f"[{UNPRINTABLE}]")


def escaped(text: str) -> str:
    r"""Make text safe for one line of a terminal: \xNN, \uNNNN for what is not to be shown."""

    def escape(match: re.Match[str]) -> str:
        code = ord(match[0])
        if 0xDC80 <= code <= 0xDCFF:  # os.fsdecode's stand-in for a byte that is not UTF-8
            return f"\\x{code - 0xDC00:02x}"
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"

    return _UNPRINTABLE.sub(escape, text)
