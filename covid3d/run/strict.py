"""Tables of keys in YAML files, checked against a model; what does not fit is refused by its key."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from covid3d.run.errors import ConfigError, nearest

Checked = TypeVar("Checked", bound=BaseModel)


class Strict(BaseModel):
    """A model that refuses unknown keys and silent type changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def read_keys(path: Path, *, where: str, cure: str) -> dict[str, Any]:
    """Return the table of keys that a YAML file holds; a ConfigError for a file of any other kind."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML ({str(error).splitlines()[0]})", where=where, cure=cure) from None
    except UnicodeDecodeError:
        raise ConfigError("the text is not UTF-8", where=where, cure=cure) from None
    except ValueError as error:  # a day or a number that YAML takes for one and cannot be
        raise ConfigError(f"not valid YAML ({error})", where=where, cure=cure) from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError("it is no table of keys", where=where, cure=cure)
    return content


def validate(model: type[Checked], content: Mapping[str, Any], *, where: str) -> Checked:
    """Check `content` against a model; the ConfigError names the key, the value and the nearest known key."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        # A misspelt key is also a missing one: name what was written before what was meant.
        first = min(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
        path = [str(part) for part in first["loc"]]
        key = ".".join(path)
        if first["type"] == "extra_forbidden":
            known = _fields(model, path[:-1])
            raise ConfigError(f"unknown key '{key}'", where=where, cure=nearest(path[-1], known)) from None
        if first["type"] == "missing":
            raise ConfigError(f"key '{key}' is missing", where=where, cure="Add it") from None
        raise ConfigError(
            f"key '{key}' is {first['input']!r}",
            where=where,
            cure=first["msg"].replace("Input should", "It should").removeprefix("Value error, "),
        ) from None


def _fields(model: type[BaseModel], path: list[str]) -> list[str]:
    """Return the field names of the model that lies under `path`."""
    for name in path:
        model = model.model_fields[name].annotation  # type: ignore[assignment]
    return list(model.model_fields)
