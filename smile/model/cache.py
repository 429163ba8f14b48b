"""What caption decoding remembers between steps, so that each step computes one position only.

Per layer: the keys and values of the image, projected once per image and read by all its captions
or beams, and those of the words so far, one row per caption or beam, in buffers allocated once.
"""

import torch
from torch import Tensor

from smile.model.layers import KeysValues


class PastCache:
    """Keys and values of the words so far for one layer: room for R rows of `max_length` words."""

    def __init__(self, *, rows: int, num_heads: int, max_length: int, head_dim: int, like: Tensor):
        shape = (rows, num_heads, max_length, head_dim)
        self.keys = like.new_empty(shape)
        self.values = like.new_empty(shape)
        self.length = 0

    def append(self, keys_values: KeysValues) -> KeysValues:
        """Adds T positions to the first R rows, (R, heads, T, head_dim); returns all, uncopied."""
        keys, values = keys_values
        rows, end = keys.size(0), self.length + keys.size(2)
        self.keys[:rows, :, self.length : end] = keys
        self.values[:rows, :, self.length : end] = values
        self.length = end
        return self.keys[:rows, :, :end], self.values[:rows, :, :end]

    def move(self, sources: Tensor, rows: Tensor, start: int = 0) -> None:
        """Each of `rows` becomes, from position `start` on, what its source was."""
        for buffer in (self.keys, self.values):
            buffer[rows, :, start : self.length] = buffer[sources, :, start : self.length]


class DecoderCache:
    """The image's and the words' keys and values, for `copies` captions or beams of each image."""

    def __init__(self, *, image: list[KeysValues], past: list[PastCache], copies: int):
        self.image = image
        self.past = past
        self.copies = copies
        self.prompt_length = 0  # positions that all rows of an image have in common

    @property
    def length(self) -> int:
        """Number of word positions held."""
        return self.past[0].length

    def spread(self) -> None:
        """After the prompt was read once per image: each image's row becomes `copies` rows."""
        self.prompt_length = self.length
        sources = torch.arange(self.num_images).repeat_interleave(self.copies)
        self._move(sources, torch.arange(len(sources)))

    @property
    def num_images(self) -> int:
        """Number of images that are still described."""
        return self.image[0][0].size(0)

    def select(self, rows: Tensor) -> None:
        """Row i becomes what row `rows[i]` was: beams change places, images that are done leave.

        Args:
            rows: `copies` rows for each image that goes on, all of that image, images in order; on
                the CPU, as which of them move is asked here, and a device would be waited for.
        """
        moved = (rows != torch.arange(len(rows))).nonzero()[:, 0]
        images = rows[:: self.copies] // self.copies
        all_stay = len(images) == self.num_images
        self._move(rows[moved], moved, self.prompt_length if all_stay else 0)
        if not all_stay:
            images = images.to(self.device)
            self.image = [(keys[images], values[images]) for keys, values in self.image]

    def _move(self, sources: Tensor, rows: Tensor, start: int = 0) -> None:
        """Each of `rows` becomes, from position `start` on, what its source was."""
        if len(rows) == 0:
            return
        sources, rows = sources.to(self.device), rows.to(self.device)
        for past in self.past:
            past.move(sources, rows, start)

    @property
    def device(self) -> torch.device:
        return self.image[0][0].device
