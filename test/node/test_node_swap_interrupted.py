"""A node that is cleaned up, fails or ends while it loads another engine, over real DDS."""

import signal

import pytest
from lifecycle_msgs.msg import Transition

from support.checkout import SHIPPED
from support.node_process import running
from support.node_rig import image_message, solid
from support.swap_rig import Drive, answer, ask

pytestmark = pytest.mark.dds


@pytest.mark.fault(
    area="lifecycle",
    row="the node is cleaned up while another engine is loaded",
    answer="The engine is not taken; the request is answered with the reason.",
    diagnostics="swap is failed, with the reason.",
)
def test_a_node_that_is_cleaned_up_meanwhile_does_not_take_the_engine(start_node):
    rig = start_node()
    assert rig.configure()
    future = ask(rig, SHIPPED)
    rig.wait_for_value("engine", "swap", "loading")
    assert rig.cleanup()
    assert rig.configure()
    success, message = answer(rig, future)
    assert not success
    assert "cleaned up" in message
    rig.wait_for_value("engine", "network", "toy")


@pytest.mark.fault(
    area="engine",
    row="the last engine fails while another one is loaded",
    answer="The node goes to unconfigured; the other engine is not taken.",
    diagnostics="The engine is ERROR with the failure.",
)
def test_a_node_whose_engine_fails_meanwhile_does_not_take_another(start_node):
    drive = Drive(start_node(engine="openvino", reliability="reliable", fallback="none"))
    rig = drive.rig
    future = ask(rig, SHIPPED)
    rig.wait_for_value("engine", "swap", "loading")
    rig.configured.host.perceiver.engine.close()
    drive.publish(image_message(solid(255, 204, 0), "rgb8", rig))
    success, message = answer(rig, future)
    assert not success
    assert "failed while the engine was loading" in message
    rig.wait_for_value("engine", "failure", "parameter fallback is 'none'")
    assert rig.state() == "unconfigured"


@pytest.mark.fault(
    area="lifecycle",
    row="the node is shut down while another engine is loaded",
    answer="It is finalized; the request is answered with the reason.",
    diagnostics="state is finalized.",
)
def test_shutdown_while_an_engine_is_loading(client, toy_bundle):
    with running(toy_bundle) as node:
        assert client.configure()
        future = ask(client, SHIPPED)
        client.wait_for(lambda: node.said("load_engine: loading"), "the beginning of the load")
        assert client.change(Transition.TRANSITION_INACTIVE_SHUTDOWN)
        success, message = answer(client, future)
        assert not success
        assert "cleaned up" in message
        assert client.state() == "finalized"
        code, text = node.end(signal.SIGINT)
    assert code == 0, text
    assert "Traceback" not in text
