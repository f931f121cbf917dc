from browsing import browser

__all__ = ["browser"]
