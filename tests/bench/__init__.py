"""What the node costs, beside what a user would take instead: `make bench` writes docs/performance.md."""
