"""Bundles that lack tasks in the node, over real DDS."""

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from mtc_perception_interfaces.srv import LoadEngine
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from support.node_rig import image_message, pixels_of, solid
from support.toy_bundle import write_toy_bundle

pytestmark = pytest.mark.dds

TOPICS = {
    "detection": ("/detections", "/label_info"),
    "drivable": ("/drivable_mask",),
    "lane": ("/lane_mask",),
}


@pytest.mark.parametrize("tasks", [("drivable", "lane"), ("detection",)])
def test_only_what_the_network_does_is_published(tmp_path, start_node, tasks):
    rig = start_node(bundle=str(write_toy_bundle(tmp_path / "toy.mtc", tasks=tasks)))
    rig.run()
    timing = rig.collect(DiagnosticArray, "timing")
    publish = rig.camera("image_raw")
    message = image_message(solid(255, 204, 0), "rgb8", rig, "camera_optical")
    if tasks == ("detection",):
        found = rig.perceive(publish, message, rig.collect(Detection2DArray, "detections"))
        assert found.detections[0].results[0].hypothesis.class_id == "vehicle"
    else:
        found = rig.perceive(publish, message, rig.collect(Image, "drivable_mask"))
        assert (pixels_of(found) == 255).all()
    assert found.header == message.header
    rig.wait_for(lambda: timing, "the times")
    for task, topics in TOPICS.items():
        assert {rig.count_publishers(topic) for topic in topics} == {int(task in tasks)}
    values = rig.values("engine")
    assert values["tasks"] == ", ".join(tasks)
    assert ("score_threshold" in values) == ("detection" in tasks)
    assert ("lane_threshold" in values) == ("lane" in tasks)
    assert rig.values("front")["resolution"] == "320x192"


@pytest.mark.fault(
    area="bundle",
    row="load_engine of a bundle with other tasks than the running one",
    answer="Refused with the tasks of both: no topic comes or goes under its subscribers.",
    diagnostics="swap is failed, with the reason.",
)
def test_outputs_do_not_come_or_go_while_it_runs(tmp_path, start_node):
    other = write_toy_bundle(tmp_path / "masks.mtc", tasks=("drivable", "lane"), name="masks")
    rig = start_node()
    rig.run()
    load = rig.create_client(LoadEngine, "/perception/load_engine")
    answer = rig.call(load, LoadEngine.Request(bundle=str(other)))
    assert not answer.success
    assert "masks has the tasks drivable, lane, the running toy detection" in answer.message
    values = rig.values("engine")
    assert values["network"] == "toy 1"
    assert "masks has the tasks" in values["swap"]
