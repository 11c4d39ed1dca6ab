"""Where a mosaic ends, and the slow light over it."""
