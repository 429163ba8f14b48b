"""The lesson's pictures: each file reads its data from the lesson's names and draws it."""

from lesson import Picture

from pictures import (
    architecture,
    attention,
    beams,
    cache,
    data,
    gradients,
    mask,
    patches,
)

PICTURES = {
    module.__name__.rpartition(".")[2]: Picture(module.data, module.draw)
    for module in (architecture, attention, beams, cache, data, gradients, mask, patches)
}
