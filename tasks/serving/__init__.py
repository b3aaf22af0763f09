"""A version, loaded to answer."""

from tasks.serving.loading import load_version

__all__ = ["load_version"]  # models that were stored by release 0.1 import it from here
