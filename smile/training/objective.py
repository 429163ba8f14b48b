"""The loss of a batch: runs the captioner, then `caption_loss` on the tokens after the prompt."""

import torch
from torch import Tensor, nn

from smile.data.batches import Batch
from smile.loss import IGNORE
from smile.model.captioner import Captioner
from smile.training.head_loss import caption_loss


class Objective(nn.Module):
    """(batch, name of a loss) → that loss, summed over the batch's target tokens.

    A module, so that DistributedDataParallel can wrap captioner and loss together.
    """

    def __init__(self, captioner: Captioner) -> None:
        super().__init__()
        self.captioner = captioner
        self.prompt_length = len(captioner.tokenizer.prompt_ids(captioner.config.data.prompt))

    def num_targets(self, batch: Batch) -> int:
        """How many tokens the loss of this batch is summed over."""
        return int((self.labels(batch.ids) != IGNORE).sum())

    def labels(self, ids: Tensor) -> Tensor:
        """(B, K, T) ids → (B·K, T - prompt_length) target ids, -100 at padding."""
        labels = ids.flatten(0, 1)[:, self.prompt_length :]
        return labels.masked_fill(labels == self.captioner.tokenizer.pad_id, IGNORE)

    def forward(self, batch: Batch, objective: str) -> Tensor:
        """Returns a float32 scalar; `objective` is the name of a loss, as in `caption_loss`.

        A batch without images has loss 0 and gives every weight a gradient of zero.
        """
        if not batch.names:
            zero = torch.zeros((), device=batch.images.device)
            return sum(((0.0 * p).sum() for p in self.parameters() if p.requires_grad), zero)
        config, decoder = self.captioner.config.loss, self.captioner.decoder
        groups = batch.ids_by_length()
        total = torch.zeros((), device=batch.images.device)
        for ids, states in zip(groups, self.states(batch.images, groups), strict=True):
            total = total + caption_loss(
                states[:, self.prompt_length - 1 :],  # the state at t predicts token t + 1
                self.labels(ids),
                weight=decoder.word_embed.weight,
                bias=decoder.head_bias,
                objective=objective,
                mle_weight=config.mle_weight,
                label_smoothing=config.label_smoothing,
                first_token_mle=config.first_token == "mle",
                num_random=config.num_random,
                end_id=self.captioner.tokenizer.sep_id if config.selective_end else None,
                reduction="sum",
            )
        return total

    def states(self, images: Tensor, groups: list[Tensor]) -> list[Tensor]:
        """(B, 3, S, S) images, (B, K, T) ids of each group → (B·K, T - 1, D) states of each group.

        The groups differ in K and T. The state of a caption's last token predicts nothing and is
        not computed. The images are encoded once for all groups, and so are their keys and values.
        Instead of images, a frozen encoder's features (B, P + 1, D) may be given.
        """
        features = images if images.dim() == 3 else self.captioner.encode(images)
        image = self.captioner.decoder.keys_values(features)
        return [self.captioner.decode(ids[:, :, :-1].flatten(0, 1), image) for ids in groups]
