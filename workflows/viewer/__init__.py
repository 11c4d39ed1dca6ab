"""A page on this machine that pans and zooms over what a project holds: `skyloom view`."""
