"""What a run leaves on disk: records, the resumable store, joined documents."""
