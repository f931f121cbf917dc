"""When a study is complete, and what becomes of its images."""
