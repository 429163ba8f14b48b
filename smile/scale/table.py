"""Rows of captions as a parquet file: one row per image, in the order of the shard.

| column | |
|---|---|
| key | WebDataset's: the name up to the first dot of its last part; null if it has none |
| image | the name in the shard, or the path |
| caption, logprob | the best caption; null if there is none |
| candidates | all captions, best first, each with its log-probability |
| error | why there is no caption; null if there is one |

The file's metadata has under "smile" the model and the settings, and which shard it was.
"""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smile.model.captioner import Caption
from smile.scale.store import require
from smile.scale.tar import key_of
from smile.system.files import writing

ROWS = 4096  # rows of one row group, which are held until they are written


class TableWriter:
    """Writes a table to a path on the disk, row by row; `close` it, or `stop` and lose it.

    `num_rows` and `num_failed` count the rows, and those with an error.

    Args:
        about: goes into the metadata; JSON through and through.
    """

    def __init__(self, path: Path, *, about: dict[str, Any]) -> None:
        require("pyarrow", "tables")
        import pyarrow
        import pyarrow.parquet

        caption = pyarrow.struct([("caption", pyarrow.string()), ("logprob", pyarrow.float64())])
        columns = {
            "key": pyarrow.string(),
            "image": pyarrow.string(),
            "caption": pyarrow.string(),
            "logprob": pyarrow.float64(),
            "candidates": pyarrow.list_(caption),
            "error": pyarrow.string(),
        }
        text = json.dumps(about, ensure_ascii=False, sort_keys=True)
        schema = pyarrow.schema(columns.items(), metadata={"smile": text})
        self.path, self.num_rows, self.num_failed = path, 0, 0
        self._rows: list[dict[str, Any]] = []
        self._batch = pyarrow.RecordBatch.from_pylist
        with writing(path):
            self._writer = pyarrow.parquet.ParquetWriter(path, schema, compression="zstd")

    def add(self, image: str, captions: Sequence[Caption], error: str | None = None) -> None:
        """Adds an image's captions, best first, or the reason why it has none."""
        found = [{"caption": c.text, "logprob": round(c.logprob, 6)} for c in captions]
        best: dict[str, Any] = found[0] if found else {"caption": None, "logprob": None}
        key = key_of(image)
        row = {"key": key and _text(key), "image": _text(image), **best, "candidates": found}
        self._rows.append(row | {"error": error and _text(error)})
        self.num_rows += 1
        self.num_failed += error is not None
        if len(self._rows) == ROWS:
            self._flush()

    def _flush(self) -> None:
        with writing(self.path):
            self._writer.write_batch(self._batch(self._rows, schema=self._writer.schema))
        self._rows = []

    def close(self) -> None:
        """Finishes the file."""
        if self._rows:
            self._flush()
        with writing(self.path):
            self._writer.close()

    def stop(self) -> None:
        """Leaves a file that nobody is to use."""
        with contextlib.suppress(Exception):
            self._writer.close()


def _text(text: str) -> str:
    r"""A name as UTF-8 can hold it: bytes that are none become "\xff"."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
