"""`up`, `down` and `status`."""

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deployments.services import catalogue, daemons, packages, postgres, seaweedfs
from deployments.services.asking import NotWell
from deployments.services.catalogue import Service, all_services
from deployments.services.daemons import ServiceError
from deployments.services.logs import rotate
from deployments.services.place import HOST, Place, is_free, make_place, open_place, write_settings
from editing.errors import UsageError
from flows.cli.console import say, table, waiting

START_SECONDS = 240.0
"""Most time for a start; the first one sets up databases, which takes long on a busy machine."""
LOOK_SECONDS = 0.2
LOCK = "services.lock"


def up(folder: Path, ports: Mapping[str, int], free: bool, auth: bool | None) -> None:
    """Start what does not run, and what would now be started otherwise; say where everything is.

    Raises:
        UsageError: a port is taken, or a file in the folder cannot be read.
        ServiceError: something is missing, or does not become well.
    """
    folder = folder.expanduser().resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    install_missing()
    with daemons.held(folder / LOCK) as lock:
        place = make_place(folder, ports, free, auth)
        write_settings(place)
        services = all_services()
        with waiting("preparing the data of the services"):
            _end_outdated(place, services)
            _check_ports(place, services)
            postgres.prepare(place, lock)
        with waiting("starting the services") as change:
            _start_all(place, services, change)
    show(place, services)
    say(f"settings: ERRATA_SETTINGS={place.settings_file}")


def down(folder: Path) -> None:
    """End everything: politely, then for good; a job ends as by Ctrl-C. Data stay.

    Raises:
        UsageError: there are no services in this folder.
        ServiceError: one does not end.
    """
    folder = folder.expanduser().resolve()
    open_place(folder)
    with daemons.held(folder / LOCK), waiting("ending the services, and the jobs that run") as change:
        _end(open_place(folder), all_services().values(), change)
    say(f"all services of {folder} have ended; their data stay there")


def status(folder: Path) -> bool:
    """Say how each service is; True where all are well."""
    place = open_place(folder.expanduser().resolve())
    return show(place, all_services())


def show(place: Place, services: Mapping[str, Service]) -> bool:
    states = look(place, services)
    rows = [
        (service.what, states[name], _address(place, service), place.log(name).relative_to(place.folder))
        for name, service in services.items()
    ]
    table(f"Services in {place.folder}", ("service", "state", "address", "log"), rows)
    return all(state == "well" for state in states.values())


def look(place: Place, services: Mapping[str, Service]) -> dict[str, str]:
    """How each service is: `well`, `stopped`, or what is wrong."""

    def state(service: Service) -> str:
        if daemons.running(place.pid_file(service.name)) is None:
            return "stopped"
        try:
            service.check(place)
        except NotWell as error:
            return f"not well: {error}"
        return "well"

    with ThreadPoolExecutor() as pool:
        return dict(zip(services, pool.map(state, services.values()), strict=True))


def install_missing() -> None:
    """Install the Debian packages that are missing, as root; others are told what to install."""
    package = postgres.needed()
    if package:
        packages.install(package, "Postgres")
    seaweedfs.program()


def _end_outdated(place: Place, services: Mapping[str, Service]) -> None:
    """Services that were started in another way, such as without signing in, end, and those that need them."""
    outdated: list[Service] = []
    for name, service in services.items():
        found = daemons.running(place.pid_file(name))
        if found is None:
            continue
        if service.command(place).digest != found[1]:
            outdated.append(service)
    for service in outdated:
        stop(place, service)


def _check_ports(place: Place, services: Mapping[str, Service]) -> None:
    for name, service in services.items():
        port = place.ports.get(service.port)
        if port and daemons.running(place.pid_file(name)) is None:
            if not service.has_jobs:
                daemons.end_the_rest(place.pid_file(name))
            if not is_free(port):
                raise UsageError(
                    f"port {port} for {service.what} is taken: choose another, e.g. --port {service.port}={port + 1}"
                )


def _start_all(place: Place, services: Mapping[str, Service], change: Callable[[str], None]) -> None:
    """Start each service as soon as those that it needs are well, and wait until all are."""
    deadline = time.monotonic() + START_SECONDS
    well: set[str] = set()
    started: set[str] = set()
    why: dict[str, str] = {}
    while len(well) < len(services):
        for name, service in services.items():
            if name in well or not well.issuperset(service.needs):
                continue
            if daemons.running(place.pid_file(name)) is None:
                if name in started:
                    raise ServiceError(
                        f"{service.what} did not start: {_last_line(place.log(name))}; see the log there"
                    )
                start(place, service)
                started.add(name)
            try:
                service.check(place)
                well.add(name)
            except NotWell as error:
                why[name] = str(error)
        left = [service.what for name, service in services.items() if name not in well]
        if left:
            change(f"starting {', '.join(left)}")
        if time.monotonic() > deadline:
            reasons = "; ".join(
                f"{services[name].what}: {why.get(name, 'waits')}" for name in services if name not in well
            )
            raise ServiceError(f"not well after {START_SECONDS:.0f} s: {reasons}; see {place.folder / 'logs'}")
        if left:
            time.sleep(LOOK_SECONDS)


def start(place: Place, service: Service) -> None:
    """Start one service, which does not run."""
    if not service.has_jobs:
        daemons.end_the_rest(place.pid_file(service.name))
    rotate(place.log(service.name))
    command = service.command(place)
    daemons.start(place.pid_file(service.name), place.log(service.name), command, catalogue.environment())


def stop(place: Place, service: Service) -> None:
    """End one service: politely, then for good."""
    daemons.stop(place.pid_file(service.name), service.end, service.patience, family_first=service.has_jobs)


def _end(place: Place, services: Iterable[Service], change: Callable[[str], None]) -> None:
    """The worker first, while the servers still hear of it; Postgres last."""
    for group in (("worker", "webhooks"), ("prefect", "mlflow", "seaweedfs", "logs"), ("postgres",)):
        ending = [service for service in services if service.name in group]
        change(f"ending {', '.join(service.what for service in ending)}")
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda service: stop(place, service), ending))


def _address(place: Place, service: Service) -> str:
    if not service.port:
        return ""
    if service.name == "postgres":
        return f"{HOST}:{place.ports['postgres']}"
    return place.url(service.port)


def _last_line(log: Path) -> str:
    lines = (
        [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    )
    return f"{lines[-1][:300]} ({log})" if lines else f"{log} is empty"
