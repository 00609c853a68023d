"""`mtc-compress sign`: vouch for a bundle."""

from pathlib import Path
from typing import Annotated

import typer


def sign(
    bundle: Annotated[Path, typer.Argument(help="Bundle; its signature is written into it.")],
    key: Annotated[
        Path,
        typer.Option(
            help="Private key, PEM: openssl genpkey -algorithm ed25519 -out KEY.pem; its public "
            "half: openssl pkey -in KEY.pem -pubout -out KEY.pub"
        ),
    ],
) -> None:
    """Sign a bundle with an Ed25519 key, for nodes that take none but those of trusted keys.

    Sign it last: an assessment or another variant takes the signature off.

    Example: [bold]mtc-compress sign models/mtc_nano.mtc --key KEY.pem[/bold]
    """
    from mtc_perception.core.bundle import sign_bundle

    manifest = sign_bundle(bundle, key).manifest
    print(f"{bundle}: {manifest.name} {manifest.version}, signed")
