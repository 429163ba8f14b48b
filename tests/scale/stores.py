"""A store of fsspec in memory, some of whose requests fail."""

from fsspec.implementations.memory import MemoryFileSystem

TEMPORARY = "https://host/key?X-Signature=SECRET: 503 slow down"


class FailingStore(MemoryFileSystem):
    """Memory's files under failing://; every `every`-th request fails (0: none).

    A file called `refused` is never taken.
    """

    protocol = "failing"
    cachable = False
    every = 0
    refused = ""
    num_requests = num_failed = 0

    @classmethod
    def reset(cls) -> None:
        cls.every = cls.num_requests = cls.num_failed = 0
        cls.refused = ""
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]

    @classmethod
    def request(cls) -> None:
        cls.num_requests += 1
        if cls.every and cls.num_requests % cls.every == 0:
            cls.num_failed += 1
            raise OSError(TEMPORARY)

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("failing://", "memory://"))

    def unstrip_protocol(self, name):
        return f"failing://{name.lstrip('/')}"

    def ls(self, path, detail=True, **kwargs):
        self.request()
        return super().ls(path, detail, **kwargs)

    def info(self, path, **kwargs):
        self.request()
        return super().info(path, **kwargs)

    def _open(self, path, mode="rb", **kwargs):
        self.request()
        file = super()._open(path, mode, **kwargs)
        return _Reading(file) if mode == "rb" else file

    def put_file(self, lpath, rpath, *args, **kwargs):
        """As others do: what was written before the failure is there."""
        super().put_file(lpath, rpath, *args, **kwargs)
        self.request()
        if self.refused and rpath.endswith(self.refused):
            raise OSError(TEMPORARY)


class _Reading:
    """A file open for reading, each read of which is a request."""

    def __init__(self, file):
        self.file = file
        file.seek(0)

    def read(self, size=-1):
        FailingStore.request()
        return self.file.read(size)

    def seek(self, *where):
        return self.file.seek(*where)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __getattr__(self, name):
        return getattr(self.file, name)
