"""A line: one served model, made of a base and a method's configuration; fixed by its first version."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictStr

from editing.config import Config, LocatingConfig
from editing.edit import Join
from editing.errors import UsageError
from editing.methods import AnyConfig, before_shrinkage, method_config
from editing.methods.memit import MemitConfig
from editing.methods.mend.method import MendConfig
from editing.models import EMBEDDED
from editing.texts import given_join, given_system, shown, system_message
from tasks.addresses import folder_of
from tasks.lines.calibrations import Calibration, taken_from, with_options
from tasks.lines.hypernetworks import resolved_options
from tasks.lines.stored import definition, not_made, spec_key, where
from tasks.names import check_line
from tasks.options import merged
from tasks.secrets import without_secrets
from tasks.settings import Settings
from tasks.stores.errors import ObjectConflict
from tasks.stores.objects import ObjectStore
from tasks.stores.records import read_record, record_bytes
from tasks.stores.snapshots import SnapshotStore
from tasks.text import Text

if TYPE_CHECKING:
    from tasks.ledger.table import Ledger

Template = Literal["auto", "raw", "chat"]


class LineSpec(Config):
    """What a version of the line is a function of, besides its facts."""

    line: str
    model: Text
    dtype: Text = "float32"
    template: Template = "raw"
    """How its facts are searched and written: as bare prompts alone, or in a chat, too; auto: where there is one.

    A new line is `auto`; one that was stored without it is of a time that knew bare prompts alone.
    """
    system: Annotated[StrictStr, AfterValidator(system_message)] | None = Field(
        None, exclude_if=lambda value: value is None, description="System message of its chat; none: the template's."
    )
    join: Join | None = Field(
        None, exclude_if=lambda value: value is None, description="What joins prompts and answers; none: by rule."
    )
    config: AnyConfig = MemitConfig()
    calibrated: dict[str, Any] | None = Field(
        None, exclude_if=lambda value: value is None, description="What of `config` came from a calibration."
    )


def calibrated_line(spec: LineSpec, found: Calibration | None) -> LineSpec:
    """A new line with what a calibration of its base says of all that it leaves open."""
    options = taken_from(found, spec.config)
    if not options:
        return spec
    return spec.model_copy(update={"config": with_options(spec.config, options), "calibrated": options})


def read_line(store: ObjectStore, line: str) -> LineSpec | None:
    """The line's definition, or None when it does not exist yet."""
    data = definition(store, line)
    return None if data is None else read_record(LineSpec, data, where(store, line))


def existing_line(store: SnapshotStore, ledger: "Ledger", line: str) -> LineSpec:
    """The line's definition. Raises UsageError where nobody knows the line, or no job has made it yet."""
    if (found := read_line(store.store, line)) is None:
        raise not_made(store, ledger, line)
    return found


def resolve_line(
    store: ObjectStore,
    settings: Settings,
    line: str,
    *,
    model: str | None = None,
    dtype: str | None = None,
    template: Template | None = None,
    system: str | None = None,
    join: str | None = None,
    method: str | None = None,
    options: dict[str, Any] | None = None,
) -> LineSpec:
    """The line as it is defined, or as it would be from the settings and what is given; nothing is written.

    Raises:
        UsageError: the line exists and is defined otherwise than asked, or a system message would never be said.
    """
    system = None if system is None else given_system(system)
    join = None if join is None else given_join(join)
    asked = {"model": absolute(model), "dtype": dtype, "template": template, "join": join, "method": method}
    found = read_line(store, line)
    if found is None:
        name = method or "memit"
        return LineSpec(
            line=check_line(line),
            model=asked["model"] or absolute(settings.model) or settings.model,
            dtype=dtype or settings.dtype,
            template=template or "auto",
            system=spoken(system, template or "auto"),
            join=join,
            config=method_config(name, resolved_options(name, options, settings)),
        )
    fixed = {name: getattr(found, name) for name in ("model", "dtype", "template", "join")}
    fixed["method"] = found.config.method
    for name, value in asked.items():
        if value is not None and value != fixed[name]:
            raise UsageError(
                f"line '{line}' has {name} '{fixed[name]}', not '{value}'; leave --{name} out or choose another line"
            )
    if system is not None and system != found.system:
        has = "no system message" if found.system is None else f"another system message, {shown(found.system)}"
        raise UsageError(f"line '{line}' has {has}; leave --system out or choose another line")
    if options and _asked(found, options, settings) != found.config:
        raise UsageError(
            f"line '{line}' has other options of {found.config.method} than asked; leave --option out or choose "
            "another line"
        )
    return found


def spoken(system: str | None, template: Template) -> str | None:
    """A system message that such a line says. Raises UsageError for one that it never would."""
    if system is not None and template == "raw":
        raise UsageError(
            f"the template 'raw' asks bare prompts, in which the system message {shown(system)} is never said; leave "
            "--system out or choose the template 'chat'"
        )
    return system


def _asked(found: LineSpec, options: dict[str, Any], settings: Settings) -> AnyConfig:
    """The configuration that these options give the method of a line; its hypernetwork need not be named again.

    Where the line's statistics are not shrunk, or its restraints filter, an option that is left out means what it meant
    before they could be otherwise; where it was made by a calibration, what that said.
    """
    options = merged(found.calibrated or {}, options)
    if isinstance(found.config, LocatingConfig) and not found.config.shrink and "shrink" not in options:
        options = before_shrinkage(found.config.method) | options
    if not found.config.compensate:
        options = {"compensate": False} | options
    if isinstance(found.config, MendConfig):
        options = {"hypernetwork_digest": found.config.hypernetwork_digest} | options
    name = found.config.method
    return method_config(name, resolved_options(name, options, settings))


def save_line(store: ObjectStore, spec: LineSpec) -> None:
    """Fix a new line's definition; called once its model could be loaded, so that a mistyped one leaves nothing.

    Raises:
        UsageError: another job defined the line otherwise in the meantime.
        RecordError: an option holds what could not be read again; nothing was written.
    """
    record_bytes(spec)
    try:
        store.put_if_absent(spec_key(spec.line), spec.model_dump_json(indent=1).encode())
    except ObjectConflict as error:
        if read_line(store, spec.line) != spec:
            raise UsageError(f"line '{spec.line}' was just defined otherwise; look at errata status") from error


def absolute(model: str | None) -> str | None:
    """A model's folder or file as an absolute path, so that a job started elsewhere finds it.

    Raises:
        UsageError: it is empty, or an address of a kind that is not read.
    """
    if model is None or model == EMBEDDED:
        return model
    if not model.strip():
        raise UsageError(f"model '{model}' is no name; give 'embedded', a folder, a hub id or a GGUF file")
    try:
        model = folder_of(model)
    except ValueError as error:
        raise UsageError(f"model '{without_secrets(model)}': {error}, a hub id or a GGUF file") from error
    if not Path(model).expanduser().exists():
        return model
    return str(Path(model).expanduser().resolve())
