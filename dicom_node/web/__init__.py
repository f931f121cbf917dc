"""The node in a browser: health for machines, the dashboard for people. Server-rendered; loads no torch."""
