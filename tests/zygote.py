"""Scripts in processes of their own, without the seconds that Python takes to import torch.

A zygote is a process that has imported everything and computed nothing yet. Each script runs in a
fork of it, with its own arguments, environment, working directory and standard streams, from its
first line to Python's own exit.
"""

import contextlib
import functools
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent


class Fork:
    """A script that runs; as much of `subprocess.Popen` as tests use."""

    def __init__(self, words: Sequence[str], answers: socket.socket) -> None:
        self.args, self.returncode = words, None
        self.answers = answers.makefile("r")
        answers.close()
        self.pid = int(self.answers.readline())

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, minus the signal's number if one ended it.

        Raises:
            subprocess.TimeoutExpired: it still runs after `timeout` seconds.
        """
        if self.returncode is None:
            if not select.select([self.answers], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(self.answers.readline())
            self.answers.close()
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def __enter__(self) -> "Fork":
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()


class Zygote:
    """Starts scripts; ends with the process that made it."""

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for pytest
            )

    def start(
        self,
        words: Sequence[object],
        *,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        stdout: io.IOBase | int = subprocess.DEVNULL,
        stderr: io.IOBase | int = subprocess.DEVNULL,
        new_session: bool = False,
    ) -> Fork:
        """Starts what `python *words` would: a script, or `-c` and code, and arguments."""
        words = [str(word) for word in words]
        request = {
            "words": words,
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "new_session": new_session,
        }
        ours, theirs = socket.socketpair()
        with theirs, open(os.devnull, "r+b") as null:
            streams = [null, *(null if s == subprocess.DEVNULL else s for s in (stdout, stderr))]
            descriptors = [s if isinstance(s, int) else s.fileno() for s in (theirs, *streams)]
            message = json.dumps(request).encode() + b"\n"
            sent = socket.send_fds(self.control, [message], descriptors)
            self.control.sendall(message[sent:])
        return Fork(words, ours)

    def run(
        self, words: Sequence[object], *, timeout: float = 120, **options
    ) -> subprocess.CompletedProcess:
        """Runs `python *words` to its end, or kills it and raises `subprocess.TimeoutExpired`."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            fork = self.start(words, stdout=out, stderr=err, **options)
            try:
                fork.wait(timeout)
            finally:
                fork.kill()
            for file in (out, err):
                file.seek(0)
            return subprocess.CompletedProcess(words, fork.returncode, out.read(), err.read())


@functools.cache
def zygote() -> Zygote:
    """The one of this process."""
    return Zygote()


def torchrun(processes: int) -> list[str]:
    """The words before a script that start it in several processes; none for one."""
    if processes == 1:
        return []
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]


def start(words: Sequence[str], **streams: int) -> Fork | subprocess.Popen:
    """Starts `python *words`: a fork, or torchrun, whose processes cannot be forks."""
    if words[0] != "-m":
        return zygote().start(words, **streams)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *words], env=environment, **streams)


@contextlib.contextmanager
def until_it_prints(code: str) -> Iterator[Fork]:
    """Python code that runs since before its first output and, if it does not end, to the end."""
    reader, writer = os.pipe()
    with open(reader, "rb") as said:
        fork = zygote().start(["-c", code], stdout=writer, new_session=True)
        os.close(writer)
        try:
            assert said.readline(), "ended without a word"
            yield fork
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(fork.pid, signal.SIGKILL)
            fork.wait()


def run_ranks(words: Sequence[object], processes: int, **options) -> list[Fork]:
    """Runs a script in several processes that know of each other by what torchrun tells them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "GROUP_WORLD_SIZE": 1}
    told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    forks = []
    for rank in range(processes):
        own = told | {"RANK": rank, "LOCAL_RANK": rank}
        environment = os.environ | {name: str(value) for name, value in own.items()}
        forks.append(zygote().start(words, env=environment, **options))
    for fork in forks:
        fork.wait()
    return forks


def family(pid: int) -> Iterator[int]:
    """A process and all its descendants."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            yield from family(int(child))


def killed(
    process: Fork | subprocess.Popen, moment: Callable[[], bool] | None, *, alone: bool = False
) -> bool:
    """Waits for a process; `kill -9`s it, `alone` or with its children, once it is the `moment`."""
    while moment and process.poll() is None:
        if moment():
            for pid in [process.pid] if alone else [*family(process.pid)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.002)
    process.wait()
    return False


def soon_after(event: Callable[[], bool], seconds: float) -> Callable[[], bool]:
    """Whether it is so many seconds since `event()`, which tells how far a process has come.

    Seconds since the start would be another moment on each machine, and on one that is busy.
    """
    since = None

    def passed() -> bool:
        nonlocal since
        if since is None and event():
            since = time.perf_counter()
        return since is not None and time.perf_counter() >= since + seconds

    return passed


# In the zygote ------------------------------------------------------------------------------------


def serve(control: socket.socket) -> list[str]:
    """Forks at each request. Returns in the forks, with what each is to run; never in the zygote.

    A fork's parent is a process that only waits for it, and says how it ended.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody else waits for those that wait
    while True:
        message, descriptors, *_ = socket.recv_fds(control, 2**16, 4)
        while message and not message.endswith(b"\n"):
            message += control.recv(2**16)
        if not message:
            sys.exit()
        if os.fork() == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            answers, *streams = descriptors
            if (pid := os.fork()) == 0:
                os.close(answers)
                return become(json.loads(message), streams)
            for stream in streams:
                os.close(stream)
            os.write(answers, b"%d\n" % pid)
            _, status = os.waitpid(pid, 0)
            os.write(answers, b"%d\n" % os.waitstatus_to_exitcode(status))
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def become(request: dict, streams: list[int]) -> list[str]:
    """Takes on a request's surroundings; returns its words."""
    if request["new_session"]:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    encoding = sys.stdout.encoding
    for number, (name, mode, errors) in enumerate(
        [("stdin", "r", "strict"), ("stdout", "w", "strict"), ("stderr", "w", "backslashreplace")]
    ):
        buffering = 1 if name == "stderr" else -1
        file = os.fdopen(number, mode, buffering, encoding, errors, closefd=False)
        setattr(sys, name, file)
        setattr(sys, f"__{name}__", file)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    return request["words"]


def run_script(words: list[str]) -> None:
    """What `python *words` does once it has started."""
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        sys.path[0] = str(Path(words[0]).parent)
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    sys.path[:1] = ["", str(ROOT)]  # in the place of this folder

    import evaluate  # noqa: F401
    import sample  # noqa: F401
    import smile.data.augment
    import smile.scale.command  # noqa: F401
    import train  # noqa: F401

    run_script(serve(socket.socket(fileno=int(sys.argv[1]))))
