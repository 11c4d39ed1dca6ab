"""How the documentation is built: `sphinx-build -W docs build/docs`."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from generate import write_reference

project = "skyloom"
author = "the skyloom developers"
version = release = installed("skyloom")
extensions = ["myst_parser"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"skyloom {release}"
html_static_path: list[str] = []
exclude_patterns = ["build"]
nitpicky = True
# No sources beside the pages: they are in the repository.
html_copy_source = False
html_show_sourcelink = False

write_reference(Path(__file__).parent / "reference")
