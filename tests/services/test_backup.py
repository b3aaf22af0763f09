"""A backup beside a running job, with the servers' own dumps: put back in other services, all agrees and serves."""

import json
import subprocess
from pathlib import Path

import psycopg
import pytest

from deployments.services import postgres
from tasks.lines.stored import stored_line
from tasks.review.registering import pointer
from tasks.serving.loading import load_version
from tasks.workplace import open_workplace
from tests.costs import further
from tests.flows import command
from tests.services.conftest import Services, started, used
from tests.services.deployed import LENIENT, Deployed, invented, until
from tests.services.stored import BUCKET

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), further]
LINE, ARTIFACTS = "kept", "mlflow/"
ON_POSTGRES = ("prefect", "worker", "mlflow", "webhooks")


def of_postgres(program: str, *arguments: str) -> None:
    folder = postgres.programs()
    assert folder is not None
    ran = subprocess.run([str(folder / program), *arguments], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def put_back(here: Services, there: Services, kept: Path) -> None:
    """As docs/keeping.md says it: databases, artifacts, then the rest."""
    for name in ON_POSTGRES:
        there.stop(name)
    for name in postgres.DATABASES:
        with psycopg.connect(there.place.database("postgres", "postgresql"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {name}")
        of_postgres("pg_restore", f"--dbname={there.place.database(name, 'postgresql')}", str(kept / f"{name}.dump"))
    for page in here.s3().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=ARTIFACTS):
        for item in page.get("Contents", []):
            body = here.s3().get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read()
            there.s3().put_object(Bucket=BUCKET, Key=item["Key"], Body=body)
    with used(there):
        ran = command.here("restore", kept / "errata")
        assert ran.code == 0, ran.err
    assert there.run("up").returncode == 0


def test_a_backup_beside_a_job_comes_back_in_other_services(
    here: Services, tmp_path: Path, fact_model_path: Path, tmp_path_factory: pytest.TempPathFactory
):
    line = Deployed(here, LINE, LENIENT | {"batch_size": 1})
    line.submit(invented(2, seed=6))
    assert line.ended(line.start()).is_completed() and line.approved() == []
    line.submit(invented(40, seed=7))
    run = line.start()
    until(lambda: line.versions() > 3, 200)
    left_out = "; ".join(json.loads(line.errata("backup", str(tmp_path / "errata"), "--json"))["left_out"])
    assert "MLflow's artifacts" in left_out and "dump it where it runs" in left_out
    for name in postgres.DATABASES:
        address = here.place.database(name, "postgresql")
        of_postgres("pg_dump", "--format=custom", f"--file={tmp_path / f'{name}.dump'}", address)
    versions = line.versions()
    assert line.state(run).is_running(), "the job has ended before the backup"
    assert line.ended(run).is_completed()
    with started(tmp_path_factory.mktemp("cache"), fact_model_path, like=here) as there:
        put_back(here, there, tmp_path)
        with used(there):
            again = Deployed(there, LINE, submitted=line.submitted)
            again.errata("watch", LINE, "--no-ask")
            again.errata("audit")
            both = [open_workplace(services.settings) for services in (here, there)]
            heads = [one.store.head(LINE) for one in both]
            assert heads[0] == heads[1] and heads[0] is not None and heads[0].version == 2
            kept = both[1].store.versions(LINE)
            assert 3 < len(kept) <= versions and kept == both[0].store.versions(LINE)[: len(kept)]
            load_version(pointer(both[1], kept[1], stored_line(both[1].store.store, LINE)), there.settings)
            assert again.ended(again.start()).is_completed() and again.approved() == []
            again.errata("audit")
