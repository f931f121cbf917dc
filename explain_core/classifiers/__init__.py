"""One classifier architecture per file."""
