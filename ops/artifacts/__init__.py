"""Satellite trails, ghosts and blobs: what one frame shows of a place and the others do not."""
