"""`smile_loss` as a drop-in for `transformers` models and their `Trainer`.

The two functions are those of the README.
"""

import pytest
import torch
import torch.nn.functional as F

import smile

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")  # which its Trainer needs

VOCAB, PAD = 30, 0


def smile_for_encoder_decoder(outputs, labels, num_items_in_batch=None):
    """T5, BART: logits and labels are aligned."""
    loss = smile.smile_loss(outputs.logits, labels, reduction="sum")
    count = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
    return loss / count


def smile_for_decoder(outputs, labels, num_items_in_batch=None):
    """GPT-2, Llama: the logits at a token predict the one after it."""
    loss = smile.smile_loss(outputs.logits[:, :-1], labels[:, 1:], reduction="sum")
    count = (labels[:, 1:] != -100).sum() if num_items_in_batch is None else num_items_in_batch
    return loss / count


def tiny_t5():
    config = transformers.T5Config(
        vocab_size=VOCAB, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
        dropout_rate=0.0, decoder_start_token_id=PAD,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


def tiny_gpt2():
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=16, n_layer=1, n_head=2, n_positions=16,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def rows_for(model, lengths: list[int]) -> list[dict]:
    """Padded examples of unequal lengths, the first token of each not to be predicted."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for length in lengths:
        ids = torch.full((8,), PAD)
        ids[:length] = torch.randint(1, 12, (length,), generator=generator)
        labels = ids.masked_fill(ids == PAD, -100)
        if model.config.is_encoder_decoder:
            decoder_ids = torch.cat([torch.tensor([PAD]), ids[:-1]])
            row = {"input_ids": ids, "decoder_input_ids": decoder_ids, "labels": labels}
        else:
            labels[:2] = -100  # the prompt
            row = {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": labels}
        rows.append(row)
    return rows


def by_hand(model, rows: list[dict]) -> torch.Tensor:
    """The definition, a token at a time: log-softmax over the words of its own target text."""
    losses = []
    for row in rows:
        inputs = {key: value[None] for key, value in row.items() if key != "labels"}
        logits, labels = model(**inputs).logits[0], row["labels"]
        if not model.config.is_encoder_decoder:
            logits, labels = logits[:-1], labels[1:]
        words = sorted({label for label in labels.tolist() if label != -100})
        first = True
        for score, label in zip(logits, labels.tolist(), strict=True):
            if label == -100:
                continue
            subset = list(range(VOCAB)) if first else words
            losses.append(-F.log_softmax(score[subset], dim=0)[subset.index(label)])
            first = False
    return torch.stack(losses).mean()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "loss"), [(tiny_t5, smile_for_encoder_decoder), (tiny_gpt2, smile_for_decoder)]
)
def test_trainer_follows_the_gradient_of_smile(make, loss, tmp_path):
    """One step of plain SGD over two unequal accumulated batches is the mean over all tokens."""
    torch.manual_seed(0)
    model = make()
    rows = rows_for(model, [8, 4, 6, 3])
    model.train()
    expected = by_hand(model, rows)
    gradients = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=2, gradient_accumulation_steps=2,
        max_steps=1, learning_rate=1.0, lr_scheduler_type="constant", max_grad_norm=0.0,
        optim="sgd", report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True,
        logging_steps=1,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=model, args=args, train_dataset=rows, compute_loss_func=loss
    )
    trainer.train()
    [logged] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == pytest.approx(expected.item(), rel=1e-3)
    triples = zip(before, model.parameters(), gradients, strict=True)
    for old, new, gradient in triples:
        step = 0 if gradient is None else gradient
        assert torch.allclose(new, old - step, atol=1e-6)
