"""Keys and values that generation keeps between steps, so that each step computes one token only.

Each decoder layer attends to the image and to the tokens before. The image's keys and values are
computed once and shared by all its captions (or beams); those of the tokens differ in each row.
"""

import torch
from torch import Tensor

KeysValues = tuple[Tensor, Tensor]  # each (B, heads, S, head_dim)


class PastCache:
    """One layer's keys and values of the tokens so far: room for `max_length` tokens in each row.

    Args:
        like: some keys, (…, heads, …, head_dim), for these two sizes, the dtype and the device.
    """

    def __init__(self, *, rows: int, max_length: int, like: Tensor):
        shape = (rows, like.size(1), max_length, like.size(3))
        self.keys = like.new_empty(shape)
        self.values = like.new_empty(shape)
        self.length = 0

    def append(self, keys_values: KeysValues) -> KeysValues:
        """Adds T tokens to the first R rows, (R, heads, T, head_dim); returns all tokens so far."""
        keys, values = keys_values
        rows, end = keys.size(0), self.length + keys.size(2)
        self.keys[:rows, :, self.length : end] = keys
        self.values[:rows, :, self.length : end] = values
        self.length = end
        return self.keys[:rows, :, :end], self.values[:rows, :, :end]

    def copy_rows(self, sources: Tensor, rows: Tensor, start: int = 0) -> None:
        """Copies row `sources[i]` to row `rows[i]`, from token `start` on."""
        for buffer in (self.keys, self.values):  # indexing copies, so the rows may overlap
            buffer[rows, :, start : self.length] = buffer[sources, :, start : self.length]


class DecoderCache:
    """All layers' keys and values, for `copies` captions or beams of each image.

    Args:
        image: for each layer, keys and values of B images.
        past: for each layer, the `PastCache` of B·copies rows.
    """

    def __init__(self, *, image: list[KeysValues], past: list[PastCache], copies: int):
        self.image = image
        self.past = past
        self.copies = copies
        self.prompt_length = 0  # how many tokens all rows of an image share

    @property
    def length(self) -> int:
        """Number of tokens held in each row."""
        return self.past[0].length

    @property
    def num_images(self) -> int:
        """Number of images that are still being captioned."""
        return self.image[0][0].size(0)

    def spread(self) -> None:
        """Turns one row per image, which holds the prompt, into `copies` rows per image."""
        self.prompt_length = self.length
        sources = torch.arange(self.num_images).repeat_interleave(self.copies)
        self._copy_rows(sources, torch.arange(len(sources)))

    def forget_last(self) -> None:
        """Drops each row's last token: the next one takes its place."""
        for past in self.past:
            past.length -= 1

    def select(self, rows: Tensor) -> None:
        """Row i becomes what row `rows[i]` was: beams are reordered, finished images are removed.

        Args:
            rows: `copies` rows of each image that is kept, the images in their old order. On the
                CPU, so that comparing them with their old places does not wait for the device.
        """
        moved = (rows != torch.arange(len(rows))).nonzero()[:, 0]
        images = rows[:: self.copies] // self.copies
        if len(images) == self.num_images:  # rows move within their image and share its prompt
            self._copy_rows(rows[moved], moved, start=self.prompt_length)
        else:
            self._copy_rows(rows[moved], moved)
            images = images.to(self.device)
            self.image = [(keys[images], values[images]) for keys, values in self.image]

    def _copy_rows(self, sources: Tensor, rows: Tensor, start: int = 0) -> None:
        if len(rows) == 0:
            return
        sources, rows = sources.to(self.device), rows.to(self.device)
        for past in self.past:
            past.copy_rows(sources, rows, start)

    @property
    def device(self) -> torch.device:
        return self.image[0][0].device
