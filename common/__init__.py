"""What the pipeline and the trainer both need, and nothing else.

The pipeline writes shards and the trainer reads them; neither imports the
other. Everything they have to agree on lives here: the class order of masks,
the attribute names, the shard format, the manifests and the configuration.
"""
