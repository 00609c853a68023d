"""Where a network's weights come from, told in its checkpoint."""

from dataclasses import replace
from pathlib import Path

from mtc_perception.bundle import sha256_hex
from mtc_perception.errors import UserError
from mtc_perception.provenance import provenance
from offline_compress.models.registry import WEIGHTS_FILE, ModelSpec, load_spec, model_spec
from offline_compress.recipe import Recipe


def trained_spec(recipe: Recipe) -> ModelSpec:
    """Shape and history of the network that `recipe` trains. Raises UserError."""
    spec = model_spec(recipe.model, recipe.classes, recipe.input.height, recipe.input.width)
    spec = replace(spec, arguments={**spec.arguments, **recipe.arguments})
    step = f"{spec.architecture} trained by recipe {recipe.name}"
    if commit := provenance()["commit"]:
        step += f" at commit {commit}"
    data = [f"{source.root.name} {source.split}" for source in recipe.train]
    before: list[str] = []
    if recipe.start_from:
        start = load_spec(recipe.start_from)
        data, before = list(dict.fromkeys([*start.data, *data])), start.lineage
        step += f" from the weights with sha256 {_sha256(recipe.start_from / WEIGHTS_FILE)}"
    elif recipe.backbone_weights:
        weights = recipe.backbone_weights
        step += f" from the backbone {weights.name} with sha256 {_sha256(weights)}"
    else:
        step += " from scratch"
    return replace(spec, data=data, licence=recipe.licence, lineage=[*before, step])


def _sha256(path: Path) -> str:
    try:
        return sha256_hex(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def progressed(spec: ModelSpec, images: int, epochs: float) -> ModelSpec:
    """The spec of a run's network after that many training images."""
    *before, current = spec.lineage
    return replace(spec, lineage=[*before, f"{current}, {images} images in {epochs:.4g} epochs"])
