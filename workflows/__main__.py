"""`python -m skyloom.workflows` is the command line."""

import sys

from skyloom.workflows.cli import main

sys.exit(main())
