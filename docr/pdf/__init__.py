"""Finding documents and turning their pages into pixels."""
