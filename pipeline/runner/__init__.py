"""How shards are made: one Dask task per shard, with a record, retries and a quarantine."""
