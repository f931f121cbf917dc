"""The whole node on one machine."""
