"""Where a network's weights come from, told in its checkpoint."""

from dataclasses import replace

from mtc_perception.bundle import sha256_hex
from mtc_perception.provenance import provenance
from offline_compress.models.registry import WEIGHTS_FILE, ModelSpec, load_spec, model_spec
from offline_compress.recipe import Recipe


def trained_spec(recipe: Recipe) -> ModelSpec:
    """Shape and history of the network that `recipe` trains. Raises UserError."""
    spec = model_spec(recipe.model, recipe.classes, recipe.input.height, recipe.input.width)
    data = [f"{source.root.name} {source.split}" for source in recipe.train]
    step = f"{spec.architecture} trained by recipe {recipe.name}"
    if commit := provenance()["commit"]:
        step += f" at commit {commit}"
    if recipe.start_from is None:
        return replace(spec, data=data, licence=recipe.licence, lineage=[f"{step} from scratch"])
    start = load_spec(recipe.start_from)
    sha256 = sha256_hex((recipe.start_from / WEIGHTS_FILE).read_bytes())
    return replace(
        spec,
        data=list(dict.fromkeys([*start.data, *data])),
        licence=recipe.licence,
        lineage=[*start.lineage, f"{step} from the weights with sha256 {sha256}"],
    )


def progressed(spec: ModelSpec, images: int, epochs: float) -> ModelSpec:
    """The spec of a run's network after that many training images."""
    *before, current = spec.lineage
    return replace(spec, lineage=[*before, f"{current}, {images} images in {epochs:.4g} epochs"])
