"""An island of frames on the sky: star lists against catalogues, when no header says where they look."""
