"""What a job imports when it comes to it, for the process that tests/warm.py copies: imported, and nothing begun."""

from flows.cli.app import set_defaults

set_defaults()

import mlflow.pyfunc  # noqa: E402
import mlflow.store.model_registry.sqlalchemy_store  # noqa: E402
import mlflow.store.tracking.sqlalchemy_store  # noqa: E402, F401

import flows.cli.jobs  # noqa: E402
import flows.cli.main  # noqa: E402
import flows.knowledge_update  # noqa: E402
import flows.train_mend  # noqa: E402, F401
import tasks.report.figures  # noqa: E402, F401
