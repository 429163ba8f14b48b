"""Makes the project importable in a benchmark, from a fresh clone and whatever the folder.

Python looks for modules beside the script that it runs, and so finds this one there, but not
`smile`. A benchmark imports this before it.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
