"""`python -m smile.pretrained` is `python -m smile.weights` now; this name goes with 0.2."""

import sys

from smile.weights.__main__ import main
from smile.weights.load import load  # noqa: F401  (for `from smile.pretrained import load`)

if __name__ == "__main__":
    print("smile.pretrained has a new name: python -m smile.weights", file=sys.stderr)
    main()
