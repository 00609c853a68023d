"""YAML files that users write."""

from pathlib import Path
from typing import Any

import yaml

from mtc_perception.util.errors import UserError
from mtc_perception.util.files import read_regular


def read_yaml(path: Path, what: str) -> Any:
    """Content of the YAML file of a `what`, not validated. Raises UserError with the reason."""
    try:
        return yaml.safe_load(read_regular(path).decode())
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{what} {path} is no YAML: {' '.join(str(error).split())}") from None
