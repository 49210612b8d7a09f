"""Found beside ends.py."""
