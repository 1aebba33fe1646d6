"""Published checkpoints and data by name: what there is (table), getting it (fetch, download), using it (load)."""
