"""Ed25519 signatures of bundles: who made them, where their sha256 says that they are whole.

Signed are the bytes of the manifest, which holds the sha256 of every other file. The signature is
the 64 bytes that `openssl pkeyutl -sign -rawin` makes, too.
"""

from collections.abc import Sequence
from pathlib import Path

from mtc_perception.util.errors import BundleError, UserError
from mtc_perception.util.files import open_regular

SIGNATURE_NAME = "manifest.sig"
SIGNATURE_BYTES = 64
_MOST_KEY_BYTES = 2**14
_MAKE = "openssl genpkey -algorithm ed25519 -out KEY.pem; openssl pkey -in KEY.pem -pubout"


def sign(data: bytes, key: Path) -> bytes:
    """The signature of `data` by the private key in the PEM file `key`. Raises UserError."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = _key_bytes(key)
    try:
        loaded = load_pem_private_key(content, password=None)
    except TypeError:
        raise UserError(
            f"{key}: the key has a passphrase; sign with openssl instead (docs/deployment.md)"
        ) from None
    except Exception as error:  # of OpenSSL, and of whatever binds it
        raise UserError(f"{key}: is no private key in PEM; make one: {_MAKE}") from error
    if not isinstance(loaded, Ed25519PrivateKey):
        raise UserError(f"{key}: is a key of another kind than Ed25519; make one: {_MAKE}")
    return loaded.sign(data)


def check_signature(data: bytes, signature: bytes, trusted: Sequence[Path]) -> Path:
    """Which of the public keys in the PEM files `trusted` has signed `data`.

    Raises BundleError if none has, UserError for a file that is no such key.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    signer = None
    for path in trusted:
        content = _key_bytes(path)
        try:
            key = load_pem_public_key(content)
        except Exception as error:
            raise UserError(f"{path}: is no public key in PEM; make one: {_MAKE}") from error
        if not isinstance(key, Ed25519PublicKey):
            raise UserError(f"{path}: is a key of another kind than Ed25519; make one: {_MAKE}")
        try:
            key.verify(signature, data)
        except InvalidSignature:
            continue
        signer = signer or path
    if signer is None:
        raise BundleError(
            "the signature is of no trusted key, or the manifest has been changed since (an"
            " assessment or another variant does that, too): sign it again with `mtc-compress sign`"
        )
    return signer


def _key_bytes(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(_MOST_KEY_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot read the key: {error.strerror}") from error
