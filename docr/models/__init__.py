"""Which checkpoints there are and where their files lie."""
