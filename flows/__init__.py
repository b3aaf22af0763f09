"""Runs of Errata: as Prefect's flows, and by the command line. Only processes of its own import this."""

import gc

YOUNG = 100_000
"""Objects made, and not yet gone, after which the young ones are looked through.

Importing torch, transformers, Prefect or MLflow makes hundreds of thousands of objects, and all of them stay: to look
through them after every 700, as Python does by itself, takes a fifth of the time.
"""

gc.set_threshold(YOUNG, 10, 10)  # before anything large is imported, wherever a run begins: a worker's, too
