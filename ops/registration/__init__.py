"""Where every frame lies on the one canvas."""
