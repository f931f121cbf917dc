"""Which version of the model runs, and how versions and weeks compare."""
