"""The trainer: SSPL's two stages over finished shards. No parser runs here."""
