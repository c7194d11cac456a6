"""The engine: views and token ids in, text out. The only room that imports torch."""
