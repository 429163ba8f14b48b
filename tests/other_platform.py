"""Trains and captions as on a system with none of what only Linux, or only POSIX, has.

    python tests/other_platform.py FOLDER SECTION.KEY=VALUE ...

FOLDER has photos/, to train on. What Windows and macOS lack is hidden before anything else is
imported, here and in each process that reads images: those begin anew (spawn), and import this file
too. It is not Windows: how paths look, and what is open cannot be removed, are not to be seen here.
"""

import ctypes
import errno
import multiprocessing
import os
import pkgutil
import signal
import stat
import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parent.parent
SCRIPTS = ("train", "sample", "evaluate")
MODULES = ("fcntl", "resource", "termios", "pwd", "grp")
NAMES = {
    os: "O_DIRECTORY fork geteuid getpgid getuid killpg posix_fallocate pread setsid "
    "sched_getaffinity sysconf sysconf_names",
    signal: "SIGHUP SIGKILL pthread_sigmask sigwaitinfo",
}


def hide() -> None:
    """Takes away what other systems lack, and refuses what Windows refuses."""
    import fcntl

    for module in MODULES:
        sys.modules[module] = None  # to import it is an ImportError from here on
    for module, names in NAMES.items():
        for name in names.split():
            if hasattr(module, name):
                delattr(module, name)

    def open_file(path, flags, mode=0o777, **options):
        """`os.open`, which on Windows opens no folder."""
        if not isinstance(path, int) and os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return system_open(path, flags, mode, **options)

    def fsync(file):
        """`os.fsync`, which on Windows takes only what is open for writing."""
        number = file if isinstance(file, int) else file.fileno()
        writable = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        if not writable or not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(errno.EBADF, "Bad file descriptor")
        system_fsync(number)

    class Library(ctypes.CDLL):
        """On Windows this process is not a library."""

        def __init__(self, name, *args, **options):
            if name is None:
                raise TypeError("bad argument type for built-in operation")
            super().__init__(name, *args, **options)

    system_open, os.open = os.open, open_file
    system_fsync, os.fsync = os.fsync, fsync
    ctypes.CDLL = Library


hide()
sys.path.insert(0, str(ROOT))


def main() -> None:
    folder, *settings = sys.argv[1:]
    multiprocessing.set_start_method("spawn")
    import_everything()
    os.chdir(folder)
    options = [word for setting in settings for word in ("--set", setting)]
    config = str(ROOT / "configs" / "shapes.toml")
    call("train", config, "--dry-run", *options)
    call("train", config, "--out", "run", *options, "--set", "train.workers=1")
    frozen = ("--set", "train.freeze=['vit']", "--set", "data.augment=false")
    call("train", config, "--out", "frozen", *options, *frozen)
    call(
        "sample",
        "photos",
        "--model",
        "run",
        "--workers",
        "1",
        "--batch-size",
        "4",
        "--out",
        "captions.csv",
    )


def import_everything() -> None:
    import smile

    for module in pkgutil.walk_packages(smile.__path__, "smile."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    for script in SCRIPTS:
        import_module(script)


def call(script: str, *words: str) -> None:
    """Runs a script's main() in this process."""
    sys.argv = [f"{script}.py", *words]
    try:
        sys.modules[script].main()
    except SystemExit as ended:
        if ended.code:
            raise


if __name__ == "__main__":
    main()
