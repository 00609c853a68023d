"""Signed bundles: which are taken, and what is said of the others."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from mtc_perception.commands import engine as vehicle
from mtc_perception.core.bundle import (
    LineageStep,
    read_bundle,
    sign_bundle,
    signer_of,
    write_bundle,
)
from mtc_perception.util.errors import BundleError, UserError
from support.key_pair import write_key_pair
from support.toy_bundle import write_toy_bundle

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two key pairs."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("fleet", "other"):
        write_key_pair(folder, name)
    return folder


@pytest.fixture(params=["toy.mtc", "toy.zip"])
def signed(request: pytest.FixtureRequest, tmp_path: Path, keys: Path) -> Path:
    path = write_toy_bundle(tmp_path / request.param)
    sign_bundle(path, keys / "fleet.pem")
    return path


def test_a_signed_bundle_is_taken(signed: Path, keys: Path) -> None:
    trusted = [keys / "other.pub", keys / "fleet.pub"]
    assert read_bundle(signed, trusted).manifest == read_bundle(signed).manifest
    assert signer_of(signed, trusted) == keys / "fleet.pub"
    content = sorted(signed.iterdir()) if signed.is_dir() else [signed]
    sign_bundle(signed, keys / "fleet.pem")
    assert (sorted(signed.iterdir()) if signed.is_dir() else [signed]) == content


@pytest.mark.fault(
    area="security",
    row="a bundle that no trusted key has signed",
    answer="Refused before its manifest is parsed.",
    diagnostics="One line: not signed, or of no trusted key.",
)
def test_a_bundle_of_somebody_else(signed: Path, keys: Path) -> None:
    with pytest.raises(BundleError, match=f"{signed}: the signature is of no trusted key"):
        read_bundle(signed, [keys / "other.pub"])
    unsigned = write_toy_bundle(signed.with_name("unsigned.mtc"))
    (unsigned / "manifest.json").write_text("[")
    with pytest.raises(BundleError, match="is not signed, and signatures are required"):
        read_bundle(unsigned, [keys / "fleet.pub"])


@pytest.mark.fault(
    area="security",
    row="a signed bundle is changed: its manifest, a network, its signature",
    answer="Refused.",
    diagnostics="One line that says what does not fit, and that an assessment or another variant"
    " takes a signature off.",
)
@pytest.mark.parametrize("file", ["manifest.json", "model.onnx", "manifest.sig"])
def test_a_changed_bundle(file: str, tmp_path: Path, keys: Path) -> None:
    path = write_toy_bundle(tmp_path / "toy.mtc")
    sign_bundle(path, keys / "fleet.pem")
    data = (path / file).read_bytes()
    for changed in (data + b" ", data[:-1], bytes([data[0] ^ 1]) + data[1:]):
        (path / file).write_bytes(changed)
        with pytest.raises(BundleError, match=r"damaged|no trusted key|manifest\.sig has 65 bytes"):
            read_bundle(path, [keys / "fleet.pub"])


def test_another_variant_or_assessment_takes_the_signature_off(signed: Path, keys: Path) -> None:
    bundle = read_bundle(signed)
    step = LineageStep(step="quantize", detail="by hand")
    manifest = bundle.manifest.model_copy(update={"lineage": [*bundle.manifest.lineage, step]})
    write_bundle(signed, manifest, {"model.onnx": bundle.model_bytes("fp32")})
    with pytest.raises(BundleError, match="an assessment or another variant takes them off"):
        read_bundle(signed, [keys / "fleet.pub"])


@needs_openssl
def test_openssl_makes_keys_and_signatures_as_the_documents_say(tmp_path: Path) -> None:
    path = write_toy_bundle(tmp_path / "toy.mtc")
    manifest, signature = path / "manifest.json", path / "manifest.sig"
    key, public = tmp_path / "key.pem", tmp_path / "key.pub"
    openssl("genpkey", "-algorithm", "ed25519", "-out", key)
    openssl("pkey", "-in", key, "-pubout", "-out", public)
    openssl("pkeyutl", "-sign", "-rawin", "-inkey", key, "-in", manifest, "-out", signature)
    read_bundle(path, [public])
    by_openssl = signature.read_bytes()
    sign_bundle(path, key)
    assert signature.read_bytes() == by_openssl


@needs_openssl
def test_keys_that_cannot_be_used(tmp_path: Path, keys: Path) -> None:
    path = write_toy_bundle(tmp_path / "toy.mtc")
    rsa, secret = tmp_path / "rsa.pem", tmp_path / "secret.pem"
    openssl("genpkey", "-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:1024", "-out", rsa)
    openssl("pkey", "-in", keys / "fleet.pem", "-aes256", "-passout", "pass:x", "-out", secret)
    for key, reason in (
        (rsa, "another kind than Ed25519"),
        (secret, "has a passphrase; sign with openssl"),
        (keys / "fleet.pub", "is no private key in PEM"),
        (tmp_path / "absent.pem", "cannot read the key: No such file"),
    ):
        with pytest.raises(UserError, match=f"{key}: .*{reason}"):
            sign_bundle(path, key)
    sign_bundle(path, keys / "fleet.pem")
    # One that is unusable is told even where another one fits: it would be missed when it counts.
    for key in (keys / "fleet.pem", tmp_path / "absent.pub", path / "manifest.json"):
        with pytest.raises(UserError, match=str(key)):
            read_bundle(path, [keys / "fleet.pub", key])


def test_the_commands(signed: Path, keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compress = pytest.importorskip("offline_compress.commands.sign")
    compress.sign(signed, keys / "other.pem")
    vehicle.verify(signed, [keys / "other.pub"])
    assert capsys.readouterr().out.splitlines() == [
        f"{signed}: toy 1, signed",
        f"{signed}: toy 1, signed by {keys / 'other.pub'}",
    ]
    with pytest.raises(BundleError, match="no trusted key"):
        vehicle.verify(signed, [keys / "fleet.pub"])


def test_a_damaged_bundle_is_not_signed(tmp_path: Path, keys: Path) -> None:
    path = write_toy_bundle(tmp_path / "toy.mtc")
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="damaged"):
        sign_bundle(path, keys / "fleet.pem")
    assert manifest["name"] == "toy"
    assert not (path / "manifest.sig").exists()
