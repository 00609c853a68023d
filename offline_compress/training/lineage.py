"""Where a network's weights come from, told in its checkpoint."""

from dataclasses import replace
from pathlib import Path

from mtc_perception.core.bundle import sha256_hex
from mtc_perception.core.class_map import ClassMap
from mtc_perception.util.errors import UserError
from mtc_perception.util.provenance import provenance
from offline_compress.models.class_change import shapes_of_classes
from offline_compress.models.registry import WEIGHTS_FILE, ModelSpec, load_spec, model_spec
from offline_compress.recipe.recipe import Recipe


def trained_spec(recipe: Recipe) -> ModelSpec:
    """Shape and history of the network that `recipe` trains.

    Raises UserError if a checkpoint that the recipe names is none, or is pruned and of another
    model than the recipe's.
    """
    classes = recipe.class_map
    spec = model_spec(recipe.model, classes.names, recipe.input.height, recipe.input.width)
    arguments = {**spec.arguments, **recipe.arguments}
    labels = None if classes == ClassMap.of(classes.names) else classes.model_dump(mode="json")
    spec = replace(spec, arguments=arguments, fit=recipe.input.fit, labels=labels)
    step = f"{spec.architecture} trained by recipe {recipe.name}"
    if commit := provenance()["commit"]:
        step += f" at commit {commit}"
    data = [source.title for source in recipe.train]
    before: list[str] = []
    if recipe.start_from:
        start = load_spec(recipe.start_from)
        if start.is_pruned:
            spec = _in_shape_of(start, spec, recipe.start_from)
        data, before = [*start.data, *data], start.lineage
        pruned = "pruned " if start.is_pruned else ""
        step += f" from the {pruned}weights with sha256 {_sha256(recipe.start_from / WEIGHTS_FILE)}"
        if new := [name for name in spec.classes if name not in start.classes]:
            step += f", which do not know {', '.join(new)}"
    elif recipe.shape_of:
        spec = _in_shape_of(load_spec(recipe.shape_of), spec, recipe.shape_of)
        step += " from scratch in the shape of the network whose weights have sha256 "
        step += _sha256(recipe.shape_of / WEIGHTS_FILE)
    elif recipe.backbone_weights:
        weights = recipe.backbone_weights
        step += f" from the backbone {weights.name} with sha256 {_sha256(weights)}"
    else:
        step += " from scratch"
    if recipe.distillation:
        teacher = recipe.distillation.teacher
        data = [*load_spec(teacher).data, *data]
        step += f", taught by the weights with sha256 {_sha256(teacher / WEIGHTS_FILE)}"
    data = list(dict.fromkeys(data))
    return replace(spec, data=data, licence=recipe.licence, lineage=[*before, step])


def _in_shape_of(start: ModelSpec, spec: ModelSpec, path: Path) -> ModelSpec:
    """`spec` with the pruned shape of `start`, which is the checkpoint at `path`."""
    if (start.architecture, start.arguments) != (spec.architecture, spec.arguments):
        raise UserError(
            f"the recipe's model and arguments are not those of {path}: "
            f"that has {_differences(start, spec)}"
        )
    shapes = shapes_of_classes(start.shapes, spec, len(start.classes))
    return replace(spec, shapes=shapes, taps=start.taps, removed=start.removed)


def _differences(start: ModelSpec, spec: ModelSpec) -> str:
    """In words what `start` has that `spec` has not."""
    if start.architecture != spec.architecture:
        return f"architecture {start.architecture}, not {spec.architecture}"
    return ", ".join(
        f"{name}: {value}, not {spec.arguments.get(name)}"
        for name, value in start.arguments.items()
        if spec.arguments.get(name) != value
    )


def _sha256(path: Path) -> str:
    try:
        return sha256_hex(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def progressed(spec: ModelSpec, images: int, epochs: float) -> ModelSpec:
    """The spec of a run's network after that many training images."""
    *before, current = spec.lineage
    return replace(spec, lineage=[*before, f"{current}, {images} images in {epochs:.4g} epochs"])
