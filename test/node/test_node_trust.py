"""Which bundles a node takes from whoever may call its services."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from rclpy.parameter import Parameter

from mtc_perception.core.bundle import sign_bundle
from support.checkout import ROOT
from support.key_pair import write_key_pair
from support.swap_rig import load
from support.toy_bundle import write_toy_bundle

pytestmark = pytest.mark.dds


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two bundles in one folder, one in another, and links from one folder to the other."""
    for place in ("mine/toy.mtc", "mine/second.mtc", "elsewhere/other.mtc"):
        write_toy_bundle(tmp_path / place)
    (tmp_path / "mine/link.mtc").symlink_to(tmp_path / "elsewhere/other.mtc")
    (tmp_path / "elsewhere/link.mtc").symlink_to(tmp_path / "mine/second.mtc")
    return tmp_path


@pytest.mark.fault(
    area="security",
    row="load_engine of a path outside of the folders that are configured",
    answer="Refused alike whether or not there is anything; links are followed before.",
    diagnostics="swap is failed; the answer names the folders and the parameter.",
)
def test_load_engine_is_limited_to_folders(start_node, folders, capfd):
    rig = start_node(bundle=str(folders / "mine/toy.mtc"), bundle_folders="", engine="onnxruntime")
    assert rig.configure()
    outside = [
        folders / "elsewhere/other.mtc",
        folders / "elsewhere/absent.mtc",
        folders / "mine/link.mtc",
        folders / "mine/../elsewhere/other.mtc",
        folders / "mine/toy.mtc/../../elsewhere/absent.mtc",
        Path("/etc/shadow"),
        Path("/absent"),
        Path("~nobody_of_this_name/x"),
        Path("~root/x"),
        Path("x" * 10_000),
    ]
    answers = {load(rig, path) for path in outside}
    ((success, message),) = answers
    assert not success
    assert message.startswith(f"the bundle lies outside of {folders}/mine, ")
    assert message.endswith("see the parameter bundle_folders")
    for inside in ("mine/second.mtc", "mine/../mine/toy.mtc", "elsewhere/link.mtc"):
        assert load(rig, folders / inside)[0], inside
    success, message = load(rig, folders / "mine/absent.mtc")
    assert not success
    assert "no such bundle" in message
    assert load(rig, precision="fp32")[0]
    # Whatever is asked for, the log is not filled.
    capfd.readouterr()
    success, message = load(rig, f"{folders}/mine/\n{'x' * 100_000}")
    assert not success
    assert "no such bundle" in message
    assert max(map(len, capfd.readouterr().err.splitlines())) < 3000


@pytest.mark.fault(
    area="security",
    row="the parameter bundle is set to a path outside of bundle_folders",
    answer="configure refuses it, alike whether or not there is anything.",
    diagnostics="The engine is ERROR and names the folders and the parameter.",
)
def test_folders_that_are_named_hold_for_configure_too(start_node, folders, capfd):
    rig = start_node(
        bundle=str(folders / "mine/toy.mtc"),
        bundle_folders=f"{folders}/absent:{folders}/elsewhere",
        engine="onnxruntime",
    )
    outside = ("mine/toy.mtc", "mine/absent.mtc", "elsewhere/link.mtc", "/etc/shadow", "/absent")
    for path in outside:
        assert rig.set(bundle=str(folders / path)) == ""
        assert not rig.configure()
    rig.wait_for_value("engine", "failure", "the bundle lies outside of")
    told = capfd.readouterr().err.split("cannot configure: the bundle lies outside of ")[1:]
    assert len(told) == len(outside)
    assert len({line.splitlines()[0] for line in told}) == 1
    assert rig.set(bundle=str(folders / "elsewhere/other.mtc")) == ""
    assert rig.configure()
    assert load(rig, folders / "mine/link.mtc")[0]
    assert not load(rig, folders / "mine/second.mtc")[0]


@pytest.mark.fault(
    area="security",
    row="load_engine where it is switched off",
    answer="Refused, whatever is asked for.",
    diagnostics="The answer names the parameter.",
)
def test_load_engine_can_be_switched_off(start_node):
    rig = start_node(load_engine=False, engine="onnxruntime")
    assert rig.configure()
    expected = (False, "load_engine is switched off by the parameter load_engine")
    assert load(rig, engine="openvino") == expected


@pytest.mark.fault(
    area="security",
    row="somebody on the network tries to change what the node trusts",
    answer="Those parameters are read-only from the start on.",
    diagnostics="The change is refused.",
)
def test_what_is_trusted_is_set_at_the_start_alone(start_node):
    rig = start_node()
    for name, value in (("bundle_folders", "/"), ("trusted_keys", ""), ("load_engine", True)):
        assert "read-only" in rig.set(**{name: value})
        assert rig.node.get_parameter(name).type_ in (Parameter.Type.STRING, Parameter.Type.BOOL)


@pytest.mark.fault(
    area="security",
    row="configure or load_engine with a bundle that is not signed, where signatures are required",
    answer="Refused; a signed one is taken.",
    diagnostics="The engine is ERROR, or swap failed, with the reason.",
)
def test_only_signed_bundles_are_taken(start_node, folders, tmp_path):
    key, public = write_key_pair(tmp_path)
    first = folders / "mine/toy.mtc"
    rig = start_node(bundle=str(first), trusted_keys=str(public), engine="onnxruntime")
    assert not rig.configure()
    rig.wait_for_value("engine", "failure", "is not signed, and signatures are required")
    sign_bundle(first, key)
    assert rig.configure()
    second = folders / "mine/second.mtc"
    success, message = load(rig, second)
    assert not success
    assert "is not signed" in message
    sign_bundle(second, key)
    assert load(rig, second)[0]


def allowed(enclave: str, kind: str, way: str) -> set[str]:
    """Names of `topics` or `services` that an enclave of the shipped policy allows a way to use."""
    policy = ET.parse(ROOT / "config" / "sros2.policy.xml").getroot()
    (profile,) = policy.findall(f"enclaves/enclave[@path='{enclave}']/profiles/profile")
    names = [
        str(name.text) for group in profile.findall(f"{kind}[@{way}='ALLOW']") for name in group
    ]
    assert len(names) == len(set(names))
    node = profile.get("node")
    return {f"/{node}{name[1:]}" if name.startswith("~") else f"/{name}" for name in names}


SOMETIMES = {"/clock", "/image_raw/compressed", "/perception/get_type_description"}
"""With sim time, the other transport, and on ROS 2 Jazzy and later."""


@pytest.mark.parametrize(
    ("kind", "way", "query"),
    [
        ("topics", "publish", "get_publisher_names_and_types_by_node"),
        ("topics", "subscribe", "get_subscriber_names_and_types_by_node"),
        ("services", "reply", "get_service_names_and_types_by_node"),
        ("services", "request", "get_client_names_and_types_by_node"),
    ],
)
def test_the_sros2_policy_is_what_the_node_does(start_node, kind, way, query):
    rig = start_node(engine="onnxruntime")
    rig.run()
    used = {name for name, _ in getattr(rig.node, query)("perception", "/")}
    policy = allowed("/perception", kind, way)
    assert used <= policy
    assert policy - used <= SOMETIMES


def test_the_sros2_operator_may_call_what_the_node_serves():
    requests = allowed("/perception_operator", "services", "request")
    assert requests == allowed("/perception", "services", "reply") - SOMETIMES
