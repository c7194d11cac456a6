"""The command line: thin commands over docr.api."""
