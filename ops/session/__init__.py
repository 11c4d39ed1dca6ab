"""The table of frames: what each is and where it points."""
