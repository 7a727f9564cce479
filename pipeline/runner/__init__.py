"""How shards are made: a Dask task each, with a record, retries and a quarantine."""
