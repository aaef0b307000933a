"""`python -m tfc_fast.cli` is `tfc-fast`."""

from __future__ import annotations

import sys

from tfc_fast.cli.main import main

sys.exit(main())
