"""What the node says of itself while it runs."""
