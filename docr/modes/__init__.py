"""What the model is shown and what its text means: modes, tiles, prompts, parsing."""
