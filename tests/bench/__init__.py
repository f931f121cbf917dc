"""What the node costs, beside what a user would take instead: `make bench` writes docs/performance.md."""

from explain_core.processor import share_cores

share_cores()
