"""One file a step; a step that has run at a site is never edited."""
