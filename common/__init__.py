"""What the pipeline and the trainer both need, and nothing else.

The pipeline writes shards and the trainer reads them; neither imports the
other. Everything they have to agree on lives here: the class order of masks,
the attribute names, the shard format, the manifests and the configuration.
"""

try:
    import fcntl  # noqa: F401
except ImportError as error:
    raise SystemExit("error: this system has no file locks of POSIX; on Windows, use WSL") from error
