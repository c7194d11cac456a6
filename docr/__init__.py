"""docr: folders of PDFs to Markdown and JSON through DeepSeek-OCR."""

__version__ = "0.1.0"
