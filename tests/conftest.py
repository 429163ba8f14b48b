"""Makes torchvision importable beside a CPU-only torch before transformers, an oracle, needs it."""

import smile.data.augment  # noqa: F401
