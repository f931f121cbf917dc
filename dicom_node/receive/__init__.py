"""What peers send, up to the acknowledgement."""
