"""Model bundles, where the node and training meet: read and verified, and the registry of their versions."""
