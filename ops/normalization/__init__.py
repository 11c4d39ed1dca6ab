"""One photometric system and one background for all frames."""
