"""`python -m lanit` and `torchrun -m lanit`."""

import sys

from lanit.cli import main

sys.exit(main())
