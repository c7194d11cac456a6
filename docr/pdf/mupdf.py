"""PyMuPDF without its layout analysis, which docr does not use.

Importing that takes three quarters of the time that PyMuPDF takes, in every run; and the runtime
for neural networks that comes with it keeps a device id and a database in the user's home.
"""

import sys

_UNUSED = ("pymupdf.layout", "pymupdf4llm")

_missing = [name for name in _UNUSED if name not in sys.modules]
sys.modules.update(dict.fromkeys(_missing))  # type: ignore[arg-type]  # None: it cannot be imported
try:
    import pymupdf as pymupdf
finally:
    for _name in _missing:
        del sys.modules[_name]
