"""The checksum beside a run's weights: written, read, and right at whatever moment all ends."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from helpers import make_run
from PIL import Image

import sample
import smile
from smile.errors import UserError
from smile.system import files
from smile.training.checkpointing.folder import check_captioners
from smile.weights import __main__ as weights_command
from smile.weights import checksum
from smile.weights.checksum import check_sum, checksum_path, start_check, write_with_checksum
from smile.weights.run_folder import WEIGHTS, load_run, save_run

DIFFERS = r"model\.safetensors: not what was written.*delete .*model\.safetensors\.sha256"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("work") / "run")


@pytest.fixture
def run(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "run"))


def flip_a_bit(run: Path) -> None:
    weights = bytearray((run / WEIGHTS).read_bytes())
    weights[-100] ^= 1
    (run / WEIGHTS).write_bytes(weights)


def test_the_usual_program_reads_it(run):
    note = checksum_path(run / WEIGHTS)
    assert note.name == "model.safetensors.sha256"
    assert note.read_text() == f"{files.sha256(run / WEIGHTS)}  model.safetensors\n"
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "-c", note.name], cwd=run, check=True, capture_output=True)
        text = subprocess.run(
            ["sha256sum", "-b", WEIGHTS], cwd=run, check=True, capture_output=True, text=True
        ).stdout
        note.write_text(
            "0" * 64 + "  another file\n" + text.upper().replace(WEIGHTS.upper(), WEIGHTS)
        )
        check_sum(run / WEIGHTS)


def test_a_flipped_bit_is_refused_wherever_a_run_is_read(run, tmp_path, monkeypatch, capsys):
    flip_a_bit(run)
    with pytest.raises(UserError, match=DIFFERS):
        load_run(run)
    with pytest.raises(UserError, match=DIFFERS):
        smile.load(run)
    with pytest.raises(UserError, match=DIFFERS):
        check_captioners(run)
    for command in (
        ["inspect", run],
        ["export", run, tmp_path / "e"],
        ["convert", run, tmp_path / "c"],
    ):
        monkeypatch.setattr(sys, "argv", ["weights", *map(str, command)])
        with pytest.raises(SystemExit):
            weights_command.main()
        assert "not what was written" in capsys.readouterr().err
    assert not (tmp_path / "e").exists() and not (tmp_path / "c").exists()
    checksum_path(run / WEIGHTS).unlink()  # the way to accept it; older runs have none
    load_run(run)


@pytest.mark.parametrize("at_once", [0, 10**9], ids=["meanwhile", "at once"])
@pytest.mark.parametrize("option", ["--json", "--explain", "--out"])
def test_sample_shows_nothing_before_the_check(run, tmp_path, monkeypatch, capfd, option, at_once):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(checksum, "AT_ONCE", at_once)
    words = ["sample.py", tmp_path / "a.png", "--model", run, "--workers", 0, option]
    words += {"--explain": [tmp_path / "words.png"], "--out": [tmp_path / "out.csv"]}.get(
        option, []
    )
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    flip_a_bit(run)
    with pytest.raises(SystemExit, match="2"):
        sample.main()
    said = capfd.readouterr()
    assert said.out == "" and "not what was written" in said.err
    assert not (tmp_path / "words.png").exists()
    assert not (tmp_path / "out.csv").exists() or "a.png" not in (tmp_path / "out.csv").read_text()


@pytest.mark.parametrize(
    "text", ["", "hello\n", f"{'0' * 63}  {WEIGHTS}\n", f"{'0' * 64}  other\n", "\x00" * 200_000,
             f"{'0' * 64}  {WEIGHTS}\n{'1' * 64}  {WEIGHTS}\n"],
)  # fmt: skip
def test_what_is_no_checksum_gets_one_line(run, text):
    checksum_path(run / WEIGHTS).write_text(text)
    with pytest.raises(UserError, match=r"model\.safetensors\.sha256: ") as caught:
        check_sum(run / WEIGHTS)
    assert "\n" not in str(caught.value)


class Killed(BaseException):
    """The end of the process, at a moment of the test's choice."""


def test_a_crash_at_any_moment_leaves_what_loads(tmp_path, monkeypatch):
    """Old and new weights; killed at each of the system calls that change the disk in turn."""
    path = tmp_path / "w"
    changes = [
        (os, "replace"),
        (os, "fsync"),
        (Path, "unlink"),
        (Path, "replace"),
        (Path, "write_bytes"),
    ]
    for moment in range(100):
        for name in tmp_path.iterdir():
            name.unlink()
        write_with_checksum(path, lambda temporary: temporary.write_bytes(b"old"))
        count = 0

        def counting(real, moment=moment):
            def call(*args, **options):
                nonlocal count
                count += 1
                if count == moment + 1:
                    raise Killed
                return real(*args, **options)

            return call

        with monkeypatch.context() as patch:
            for owner, name in changes:
                patch.setattr(owner, name, counting(getattr(owner, name)))
            try:
                write_with_checksum(path, lambda temporary: temporary.write_bytes(b"new"))
                finished = True
            except Killed:
                finished = False
        assert path.read_bytes() in (b"old", b"new")
        check_sum(path)
        if finished:
            break
    assert moment >= 6 and path.read_bytes() == b"new" and checksum_path(path).exists()


@pytest.mark.slow
def test_a_reader_meanwhile_sees_no_damage(tmp_path):
    """Weights replaced again and again while they are checked again and again."""
    path = tmp_path / "w"
    ends = threading.Event()

    def write() -> None:
        for number in range(8):
            data = bytes([number]) * 100_000
            write_with_checksum(path, lambda temporary, data=data: temporary.write_bytes(data))
        ends.set()

    write_with_checksum(path, lambda temporary: temporary.write_bytes(b"first"))
    writer = threading.Thread(target=write)
    writer.start()
    while not ends.is_set():
        check_sum(path)
    writer.join()
    start_check(path)()


# Half precision -----------------------------------------------------------------------------------


def convert(source: Path, folder: Path, *options: str) -> int:
    command = ["convert", str(source), str(folder), *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["smile.weights", *command])
        try:
            weights_command.main()
        except SystemExit as end:
            return end.code
    return 0


def test_half_precision_takes_half_the_space_and_has_its_checksum(run, tmp_path):
    assert convert(run, tmp_path / "half", "--half") == 0
    sizes = [path.stat().st_size for path in (tmp_path / "half" / WEIGHTS, run / WEIGHTS)]
    assert sizes[0] < 0.7 * sizes[1]  # the rest of so tiny a file is names
    check_sum(tmp_path / "half" / WEIGHTS)
    ours, whole = (load_run(folder).state_dict() for folder in (tmp_path / "half", run))
    assert all(weight.dtype == torch.float32 for weight in ours.values())
    assert all(torch.equal(ours[name], whole[name].half().float()) for name in whole)
    flip_a_bit(tmp_path / "half")
    with pytest.raises(UserError, match=DIFFERS):
        load_run(tmp_path / "half")


def test_a_weight_beyond_half_precision_is_named(run, tmp_path, capsys):
    captioner = load_run(run)
    with torch.no_grad():
        captioner.decoder.head_bias[0] = 1e5
    save_run(tmp_path / "large", captioner)
    assert convert(tmp_path / "large", tmp_path / "half", "--half") == 2
    assert (
        "decoder.head_bias: holds 1.0e+05, more than float16's largest" in capsys.readouterr().err
    )
    assert not (tmp_path / "half").exists()
