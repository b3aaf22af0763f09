"""What `up`, `down` and `status` promise, on the services themselves."""

from tests.services.conftest import Services


def test_up_twice_starts_nothing_twice(services: Services):
    before = {name: services.pid(name) for name in ("postgres", "seaweedfs", "prefect", "mlflow", "worker", "logs")}
    assert None not in before.values()
    ran = services.run("up")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert {name: services.pid(name) for name in before} == before
    assert services.settings.tracking_uri in ran.stdout
