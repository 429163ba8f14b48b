"""What caption decoding remembers between steps, so that each step computes one position only.

Per layer: the keys and values of the image, computed once per image and shared by its beams, and
those of the words so far, one row per caption or beam.
"""

from torch import Tensor

from smile.layers import KeysValues


class PastCache:
    """Keys and values of the words so far for one layer, in buffers allocated once."""

    def __init__(self, *, rows: int, num_heads: int, max_length: int, head_dim: int, like: Tensor):
        shape = (rows, num_heads, max_length, head_dim)
        self.keys = like.new_empty(shape)
        self.values = like.new_empty(shape)
        self.length = 0

    def append(self, keys_values: KeysValues) -> KeysValues:
        """Adds T positions, (R, heads, T, head_dim) each; returns all of them, without a copy."""
        keys, values = keys_values
        end = self.length + keys.size(2)
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def select(self, rows: Tensor) -> None:
        """Row i becomes what row `rows[i]` was: beams are reordered, finished images leave."""
        for name in ("keys", "values"):
            buffer = getattr(self, name)
            chosen = buffer[rows, :, : self.length]
            if len(rows) != len(buffer):
                buffer = buffer.new_empty((len(rows), *buffer.shape[1:]))
                setattr(self, name, buffer)
            buffer[:, :, : self.length] = chosen


class DecoderCache:
    """What decoding remembers between steps: the image's keys and values, and the words' ones."""

    def __init__(self, *, image: list[KeysValues], past: list[PastCache]):
        self.image = image
        self.past = past

    @property
    def length(self) -> int:
        """Number of word positions held."""
        return self.past[0].length

    def select(self, rows: Tensor, images: Tensor | None = None) -> None:
        """Keeps word rows `rows` (any order, repeats allowed) and, if given, images `images`."""
        for past in self.past:
            past.select(rows)
        if images is not None:
            self.image = [(keys[images], values[images]) for keys, values in self.image]
