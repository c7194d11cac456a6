"""The network of DeepSeek-OCR, in plain PyTorch."""
