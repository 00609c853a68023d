"""Flags of commands, made of the options of a replay."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import typer
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from mtc_perception.replay.options import Flag

Command = TypeVar("Command", bound=Callable[..., None])


def with_flags(
    *models: type[BaseModel], only: tuple[str, ...] = (), **defaults: object
) -> Callable[[Command], Command]:
    """A decorator of commands: what they take as `**given` becomes a flag for each option.

    `only` names the options, by default all of `models`; `defaults` are told in place of theirs.
    A flag that is not given is None, False or empty: `options_of` makes sense of it.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command)
        own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        flags = [
            flag
            for model in models
            for name, field in model.model_fields.items()
            if not only or name in only
            for flag in _flags(
                name, field, defaults.get(name, None if field.is_required() else field.default)
            )
        ]
        command.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*own, *flags]
        )
        return command

    return decorate


def options_of(model: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """What was `given` of the options of `model`, by their names."""
    options: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        value = given.get(name)
        if value is True:
            value = _flag(field).stands_for
        if parts := _parts(field):
            value = {part: given[f"{name}_{part}"] for part in parts if given.get(f"{name}_{part}")}
        if value is not None and value is not False and value != () and value != {}:
            options[name] = value
    return options


def flag_of(model: type[BaseModel], name: str) -> Flag:
    """How the option `name` of `model` is given."""
    return _flag(model.model_fields[name])


def _flag(field: FieldInfo) -> Flag:
    return next(one for one in field.metadata if isinstance(one, Flag))


def _flags(name: str, field: FieldInfo, default: object) -> Iterator[inspect.Parameter]:
    if not any(isinstance(one, Flag) for one in field.metadata):
        return  # no option: what is replayed
    flag = _flag(field)
    if parts := _parts(field):
        for part, words in parts.items():
            yield _parameter(f"{name}_{part}", str, flag, words, None)
        return
    words = field.description or ""
    if flag.stands_for is not None:
        yield _parameter(name, bool, flag, words, None)
        return
    if default not in (None, ()):
        value = f"{default:g}" if isinstance(default, float) else default
        words = f"{words.removesuffix('.')}; default: {value}."
    yield _parameter(name, _shell_type(field), flag, words, _check(field))


def _parameter(
    name: str, kind: Any, flag: Flag, words: str, check: Callable[[Any], Any] | None
) -> inspect.Parameter:
    names = flag.names or (f"--{name.replace('_', '-')}",)
    option = typer.Option(
        *names, help=words, rich_help_panel=flag.panel, show_default=False, callback=check
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=False if kind is bool else None,
        annotation=Annotated[kind if kind is bool else kind | None, option],
    )


def _check(field: FieldInfo) -> Callable[[Any], Any]:
    """What a value must pass: it is refused in the shell as it would be in a scenario."""
    kind: Any = Annotated[(field.annotation, *field.metadata)]
    adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def check(value: Any) -> Any:
        try:
            return None if value is None else adapter.validate_python(value)
        except ValidationError as error:
            raise typer.BadParameter(error.errors()[0]["msg"]) from None

    return check


def _parts(field: FieldInfo) -> dict[str, str]:
    """The names and words of an option of several parts, each of which has its flag."""
    kind = _shell_type(field)
    parts = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    return {part.name: part.metadata["help"] for part in parts}


def _shell_type(field: FieldInfo) -> Any:
    """The type of what is given in a shell."""
    kind: Any = field.annotation
    if get_origin(kind) in (Union, UnionType):
        kind = get_args(kind)[0]  # or None
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return list[str] if get_origin(kind) is tuple else kind
