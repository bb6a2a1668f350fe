"""One module a topic: `PEERS` it runs beside fastsgd unless told otherwise, `measure`, `show` and `complaints`."""
