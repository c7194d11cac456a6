"""`docr schema`: the JSON Schema of the records."""

import json

from docr.cli.messages import emit


def schema() -> None:
    """Print the JSON Schema of the records that docr writes."""
    from docr.output.record import json_schema

    emit(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n")
