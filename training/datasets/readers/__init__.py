"""One reader per source; the folder is the registry."""
