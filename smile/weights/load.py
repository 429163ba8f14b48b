"""One `load` for captioners from every source.

    captioner = smile.load("blip-base")
    print(captioner.caption("dog.jpg"))

`load` takes a run folder, a `.pth` of BLIP or SMILE, a `transformers` folder, a name of `KNOWN`, or
any hub id of a `transformers` BLIP captioner. Sizes are read off the weights. What weights do not
show (number of heads, LayerNorm's epsilon) comes from the source's config if it has one, or else is
as in the published BLIP models.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smile.config import (
    Config,
    DataConfig,
    DecoderConfig,
    GenerateConfig,
    ViTConfig,
    check_relations,
    check_setting,
    load_config,
    with_settings,
)
from smile.errors import UserError, first_few
from smile.model.captioner import Captioner
from smile.model.tokenizer import Tokenizer
from smile.weights import checksum
from smile.weights.file import read_file
from smile.weights.hub import hub_file
from smile.weights.kind import recognise
from smile.weights.names import TRANSFORMERS, Convention, to_ours
from smile.weights.needed import BERT_ROWS, BERT_VOCAB, find, local
from smile.weights.run_folder import (
    CONFIG,
    WEIGHTS,
    build,
    check_run,
    is_run,
    is_unfinished,
    num_layers,
    read_run,
)
from smile.weights.transformers_folder import check_type, read_folder
from smile.weights.transformers_settings import read_settings
from smile.weights.vocabulary import (
    Pieces,
    TokenIds,
    fit_vocabulary,
    keep_rows,
    make_tokenizer,
    pieces_of_file,
    read_pieces,
)

DTYPES = (torch.float32, torch.bfloat16)  # of weights in memory
HEAD_DIM = 64  # of every BLIP: heads = width / 64 unless given
BLIP_NORM_EPS = {"vit": 1e-6, "decoder": 1e-12}


def load(
    source: str | Path,
    *,
    image_size: int | None = None,
    num_heads: int | None = None,
    vocab: str | Path | None = None,
    model_config: str | Path | None = None,
    drop_path: float | None = None,
    dropout: float | None = None,
    dtype: torch.dtype = torch.float32,
    check: bool = True,
) -> Captioner:
    """Loads a captioner, with its image transform and tokenizer, on the CPU in evaluation mode.

    Args:
        source: a run folder, a BLIP or SMILE `.pth`, a `transformers` folder, a name of `KNOWN`, or
            a hub id ("owner/name").
        image_size: side of the images in pixels; that of the weights unless given.
        num_heads: attention heads of both towers; one per 64 of width unless given.
        vocab: a `vocab.txt`; the source's, else bert-base-uncased's, unless given.
        model_config: a TOML file whose settings override all that was read or inferred.
        drop_path, dropout: for fine-tuning.
        dtype: of the weights in memory: torch.float32, or torch.bfloat16 for captioning in half the
            memory. They are read layer by layer, so memory never holds all of them in two types.
        check: compare a run's weights with their checksum first; see also `start_check`.

    Raises:
        UserError: if the source cannot be found, read, or fully accounted for.
    """
    given = {
        "vit.image_size": image_size,
        "vit.num_heads": num_heads,
        "decoder.num_heads": num_heads,
        "vit.drop_path": drop_path,
        "decoder.dropout": dropout,
    }
    if dtype not in DTYPES:
        raise UserError(f"smile.load: dtype = {dtype}: expected {' or '.join(map(str, DTYPES))}")
    whole = read_source(source, given, vocab=vocab, model_config=model_config, check=check)
    return build(whole.config, whole.tokenizer, whole.weights, source=whole.found, dtype=dtype)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What `load` builds a captioner of: weights by our names, as the files hold them."""

    found: Path
    weights: dict[str, Tensor]
    config: Config
    tokenizer: Tokenizer


def read_source(
    source: str | Path,
    given: dict[str, Any],
    *,
    vocab: str | Path | None,
    model_config: str | Path | None,
    check: bool,
) -> Source:
    """Reads what `load` describes; `given` are settings by their names, None if not given."""
    num_heads = given.get("vit.num_heads")
    found = find(str(source), own_vocab=vocab is None)
    ids = TokenIds()
    if (found / CONFIG).is_file() and not is_unfinished(found):
        weights, config, tokenizer = read_run(found, check=check)
    else:
        weights, config, ids = _read_foreign(
            found,
            own_vocab=vocab is None,
            knows_heads=not (num_heads is None and model_config is None),
        )
        tokenizer = None
    config = _with_given(config, given)
    if model_config is not None:
        config = load_config(model_config, base=config)
    if vocab is not None or tokenizer is None:
        config, tokenizer = _fit_tokenizer(found, vocab, weights, config, ids)
    check_relations(config, {}, default_place=found)
    return Source(found=found, weights=weights, config=config, tokenizer=tokenizer)


def _with_given(config: Config, given: dict[str, Any]) -> Config:
    """The config with the arguments of `load` that were given."""
    checked = {
        name: check_setting(name, value, place="smile.load", called=name.partition(".")[2])
        for name, value in given.items()
        if value is not None
    }
    return with_settings(config, checked)


def start_check(source: str | Path) -> Callable[[], None]:
    """Starts comparing a run's weights with their checksum, in a thread; other sources have none.

    Lets a first caption be computed meanwhile: call `load(source, check=False)`, then this. Call
    the function it returns before showing anything: it waits, and raises what `load` would have.
    """
    folder = local(source)
    return checksum.start_check(folder / WEIGHTS) if is_run(folder) else lambda: None


def default_source(runs: str | Path = "runs", *, for_photos: bool = False) -> tuple[str, str]:
    """What to load if no model is named, and why: the newest run, or else "blip-base".

    Runs that cannot be read are skipped, and named in the reason.

    Args:
        for_photos: skip captioners of drawn scenes, which call any photo a small white square.
    """
    source, why = "blip-base", f"since there is no run under {runs}/"
    left_out = []
    for folder in newest_first(Path(runs)):
        try:
            drawn = check_run(folder).model.trained_on == "shapes"
        except UserError as error:
            left_out.append(str(error))
            continue
        if not (drawn and for_photos):
            source, why = str(folder), f"the newest run under {runs}/"
            break
        left_out.append(f"{folder} knows only drawn scenes")
    if left_out:
        why = why.replace("no run", "no other run") + f" (left out: {first_few(left_out)})"
    return source, why


def newest_first(runs: Path) -> list[Path]:
    """The run folders directly under `runs`, newest first; unreadable ones are skipped."""
    times = {}
    for path in runs.glob(f"*/{WEIGHTS}"):
        with contextlib.suppress(OSError):
            if is_run(path.parent):
                times[path.parent] = path.stat().st_mtime
    return sorted(times, key=times.__getitem__, reverse=True)


def read_weights(path: Path) -> tuple[dict[str, Tensor], Convention]:
    """All tensors of a `.pth`, `.bin` or `.safetensors` file or a `transformers` folder.

    Returns:
        The tensors, memory-mapped, and the convention their names follow.

    Raises:
        UserError: if there are none, they cannot be read, or they belong to another kind of model.
    """
    weights = read_folder(path) if path.is_dir() else read_file(path)
    return recognise(weights, source=path)


# Weights that sizes are read off, and their numbers of dimensions.
SIZES = {
    "vit.patch_embed.weight": 4,
    "vit.positions": 3,
    "vit.blocks.0.mlp.fc1.weight": 2,
    "decoder.word_embed.weight": 2,
    "decoder.position_embed.weight": 2,
    "decoder.blocks.0.cross_attention.key.weight": 2,
    "decoder.blocks.0.mlp.fc1.weight": 2,
}


def infer_config(weights: dict[str, Tensor], *, source: object = "these weights") -> Config:
    """Sizes read off weights by our names; one head per 64 of width, and BLIP's epsilons.

    Raises:
        UserError: naming `source` and a weight that is missing or has the wrong shape.
    """
    shape = {name: tuple(weights[name].shape) for name in SIZES if name in weights}
    for name, dims in SIZES.items():
        found = shape.get(name, "missing")
        if found == "missing" or len(found) != dims or 0 in found:
            raise UserError(f"{source}: {name} is {found}, expected {dims} sizes above 0")
    vit_dim, _, patch, _ = shape["vit.patch_embed.weight"]
    num_patches = shape["vit.positions"][1] - 1
    grid = round(num_patches**0.5)
    if grid < 1 or grid**2 != num_patches:
        raise UserError(
            f"{source}: vit.positions is {shape['vit.positions']}, expected one for the class "
            "token and one for each patch of a square image"
        )
    vit = ViTConfig(
        image_size=grid * patch,
        patch_size=patch,
        dim=vit_dim,
        depth=num_layers(weights, "vit"),
        num_heads=max(1, vit_dim // HEAD_DIM),
        mlp_dim=shape["vit.blocks.0.mlp.fc1.weight"][0],
        norm_eps=BLIP_NORM_EPS["vit"],
    )
    vocab_size, dim = shape["decoder.word_embed.weight"]
    decoder = DecoderConfig(
        vocab_size=vocab_size,
        dim=dim,
        features_dim=shape["decoder.blocks.0.cross_attention.key.weight"][1],
        depth=num_layers(weights, "decoder"),
        num_heads=max(1, dim // HEAD_DIM),
        mlp_dim=shape["decoder.blocks.0.mlp.fc1.weight"][0],
        max_positions=shape["decoder.position_embed.weight"][0],
        norm_eps=BLIP_NORM_EPS["decoder"],
    )
    # The usual lengths, limited by the number of positions.
    data, search = DataConfig(), GenerateConfig()
    longest = min(search.max_length, decoder.max_positions)
    return Config(
        vit=vit,
        decoder=decoder,
        data=replace(data, max_tokens=min(data.max_tokens, decoder.max_positions)),
        generate=replace(search, max_length=longest, min_length=min(search.min_length, longest)),
    )


# Reading ------------------------------------------------------------------------------------------


def _read_foreign(
    found: Path, *, own_vocab: bool, knows_heads: bool
) -> tuple[dict[str, Tensor], Config, TokenIds]:
    """Weights by our names, their config, and the ids that captions begin and end with."""
    if is_unfinished(found):
        raise UserError(
            f"{found}: an interrupted run without a captioner yet: the first is written at the end "
            "of an epoch; if it no longer runs, resume it with "
            f"python train.py CONFIG.toml --out {found} --resume"
        )
    folder = found if found.is_dir() else found.parent
    if found.is_dir() and (folder / "config.json").exists():
        check_type(folder, "blip")
    theirs, convention = read_weights(found)
    weights = to_ours(theirs, convention, source=found)
    config, ids = find_config(
        found, weights, convention, own_vocab=own_vocab, knows_heads=knows_heads
    )
    return weights, config, ids


def find_config(
    found: Path,
    weights: dict[str, Tensor],
    convention: Convention,
    *,
    own_vocab: bool,
    knows_heads: bool,
) -> tuple[Config, TokenIds]:
    """Sizes read off the weights, and settings from the files beside them.

    Args:
        knows_heads: whether the caller sets the number of heads if no file does.
    """
    config, ids = infer_config(weights, source=found), TokenIds()
    if convention is TRANSFORMERS:
        folder = found if found.is_dir() else found.parent
        if not knows_heads and not (folder / "config.json").exists():
            raise UserError(
                f"{folder / 'config.json'} is missing: without it the number of heads of these "
                "transformers weights is unknown; fetch the file, or give num_heads=… or "
                "model_config=… (--model-config)"
            )
        values, ids = read_settings(folder, own_vocab=own_vocab)
        config = with_settings(config, values)
    beside = found.with_suffix(".toml")
    if found.is_file() and beside.exists():
        config = load_config(beside, base=config)
    return config, ids


def _fit_tokenizer(
    found: Path,
    vocab: str | Path | None,
    weights: dict[str, Tensor],
    config: Config,
    ids: TokenIds,
) -> tuple[Config, Tokenizer]:
    """The tokenizer, and the config with its vocabulary size.

    Rows of `weights` that no token of the tokenizer uses are removed.
    """
    num_rows = config.decoder.vocab_size
    pieces = _find_pieces(found, vocab, num_rows=num_rows)
    vocabulary = fit_vocabulary(pieces, num_rows=num_rows, ids=ids, source=found)
    keep_rows(weights, vocabulary.rows)
    strip_accents = config.tokenizer.strip_accents
    if strip_accents is None:
        strip_accents = pieces.strip_accents is not False
    tokenizer = make_tokenizer(vocabulary, pieces.path, strip_accents=strip_accents)
    decoder = replace(config.decoder, vocab_size=tokenizer.vocab_size)
    return replace(config, decoder=decoder), tokenizer


def _find_pieces(found: Path, vocab: str | Path | None, *, num_rows: int) -> Pieces:
    """The given vocabulary, else the one beside the weights, else BERT's, which BLIP uses."""
    if vocab is not None:
        return pieces_of_file(Path(vocab), num_rows=num_rows)
    folder = found if found.is_dir() else found.parent
    if pieces := read_pieces(folder, num_rows=num_rows):
        return pieces
    missing = f"{found} has no vocab.txt or tokenizer.json beside it"
    if num_rows not in BERT_ROWS:
        raise UserError(
            f"{missing}, and its {num_rows} tokens are not BERT's {BERT_ROWS.start} and BLIP's 2; "
            "name its vocab.txt with vocab=… (--vocab)"
        )
    try:
        path = hub_file(*BERT_VOCAB)
    except UserError as error:
        raise UserError(
            f"{missing}; name one with vocab=… (--vocab), or BERT's: {error}"
        ) from error
    return pieces_of_file(path, num_rows=num_rows)
