"""examples/subscriber.py against the node, and what docs/subscribing.md says of its topics."""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

from support.node_rig import image_message, solid

ROOT = Path(__file__).parents[2]


@pytest.mark.dds
def test_the_example_puts_the_outputs_of_an_image_together(start_node):
    rig = start_node()
    rig.run()
    publish = rig.camera("image_raw")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    example = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "subscriber.py")],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(iter(example.stdout.readline, "")))
    reader.start()
    try:
        rig.wait_for(
            lambda: rig.count_subscribers("/lane_mask") and rig.count_subscribers("/detections"),
            "the example",
        )
        message = image_message(solid(255, 204, 0), "rgb8", rig, "camera_optical")

        def told() -> bool:
            publish(message)  # best effort: one may be lost
            return bool(lines)

        rig.wait_for(told, "a line of the example")
    finally:
        example.terminate()
        example.wait(10)
        reader.join(10)
    stamp = message.header.stamp
    number = r"\d+"
    box = rf"vehicle \d\.\d\d at {number},{number} {number}x{number}"
    line = rf"{stamp.sec}\.{stamp.nanosec:09d} drivable 100% lane {number}% {box}.*\n"
    assert re.fullmatch(line, lines[0]), lines[0]


@pytest.mark.dds
def test_qos_and_layout_are_those_of_the_documents(start_node):
    rig = start_node()
    rig.run()
    text = (ROOT / "docs" / "subscribing.md").read_text()
    rows = re.findall(r"^\| (`[^|]+) \| `[^|]+ \| (\w+), (\w[\w ]*), (\d+) \|$", text, re.MULTILINE)
    told = {
        "/" + name.strip("/`"): (reliability, durability)
        for names, reliability, durability, _ in rows
        for name in names.split(", ")
    }
    assert len(told) == 7
    for topic, (reliability, durability) in told.items():
        rig.wait_for(lambda topic=topic: rig.count_publishers(topic), topic)
        (info,) = rig.get_publishers_info_by_topic(topic)
        qos = info.qos_profile
        assert qos.reliability == ReliabilityPolicy[reliability.upper()], topic
        assert qos.durability == DurabilityPolicy[durability.upper().replace(" ", "_")], topic
    layout = json.loads((ROOT / "config" / "live.foxglove.json").read_text())
    shown = set(re.findall(r'"(/\w+)[".]', json.dumps(layout)))
    assert shown
    assert shown <= set(told)
    panels = set(re.findall(r'"(\w+!\w+)"', json.dumps(layout["layout"])))
    assert panels == set(layout["configById"])
