"""Whether the node is well: figures from everywhere, what they mean, and who is told."""
