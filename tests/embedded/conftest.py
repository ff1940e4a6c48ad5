"""The makers of the embedded base are outside the package, in scripts/base."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "scripts"))
