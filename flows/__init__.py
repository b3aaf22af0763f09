"""Runs of Errata: as Prefect's flows, and by the command line. Only processes of its own import this."""

from tasks.garbage import collect_rarely

collect_rarely()  # before anything large is imported, wherever a run begins: a worker's, too
