"""What the node keeps: files, the ledger, model bundles."""
