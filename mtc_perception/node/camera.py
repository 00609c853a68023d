"""One camera of the node: its subscription, its publishers, and how its input is doing."""

import time
from enum import Enum

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import (
    DurabilityPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2DArray, LabelInfo

from mtc_perception.core.image_header import QUOTED_CHARS
from mtc_perception.core.images import SUPPORTED_ENCODINGS, SourceImage
from mtc_perception.core.letterbox import to_rgb
from mtc_perception.core.overlay import draw_overlay
from mtc_perception.core.perception import Perception
from mtc_perception.node.messages import (
    detections_message,
    image_message,
    label_info_message,
    received_image,
    rejection_message,
    source_image,
    stamp_ns,
    timing_message,
)
from mtc_perception.node.parameters import CameraSettings
from mtc_perception.runtime.frames import (
    Clock,
    Frame,
    FrameSlots,
    FrameTimes,
    Outcome,
    TimingWindow,
)
from mtc_perception.runtime.host import EngineHost

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

OUTPUT_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
"""Reliable, so that every consumer can connect; deep enough for a recorder that falls behind."""
LATCHED_QOS = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
RAW_TYPE, COMPRESSED_TYPE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
NAMED_ENCODINGS = 8
"""So many unknown encodings are each logged as an error once; more are made up."""
WARN_PERIOD_NS = 5_000_000_000
LOST_AFTER_S = 1.0
LOST_AFTER_PERIODS = 5.0
"""A slow camera is lost only after this many of its own periods."""

UNANSWERED_S = 0.8
"""Images that come are answered within this time, or the camera is told to be unanswered."""
RATE_OVER_S = 0.5
"""Shortest time to measure a rate over."""


class InputState(Enum):
    WAITING = "waiting"
    """No image since activation."""
    OK = "ok"
    LOST = "lost"
    """Images came and have stopped."""
    REJECTED = "rejected"
    """Images come, and the last one could not be used."""
    UNANSWERED = "unanswered"
    """Images come, and nothing becomes of them."""


class InputMonitor:
    """Follows one camera from activation on.

    The inference thread calls `accepted` and `rejected`, the executor's thread everything else;
    they share single attributes that are only replaced, so no lock is needed.
    """

    def __init__(self) -> None:
        self.clock = Clock.OK
        self.offset_ms = 0.0
        """Node clock minus stamp at the last receipt: the age, where the clocks agree."""
        self.stamps_back = 0
        """Stamps earlier than the one before: a looping replay, or a clock that was set."""
        self.qos_problem = ""
        self.resolution = ""
        self._rejection = ""
        self._stamp_ns = 0
        self._arrived_ns = 0
        self._pending_ns = 0
        """When the first image arrived of those that came after the last one answered."""
        self._answered_ns = (0, 0)
        """When the last image arrived that was answered or rejected, and when it was."""
        self._period_s = 0.0
        self._count = 0
        self._rate_hz = 0.0
        self._counted_since_ns = time.monotonic_ns()

    def arrived(self, frame: Frame) -> None:
        if self._arrived_ns:
            period_s = (frame.arrived_ns - self._arrived_ns) / 1e9
            self._period_s = period_s if self._period_s == 0 else _blend(self._period_s, period_s)
        if self._answered_ns[0] >= self._arrived_ns:
            self._pending_ns = frame.arrived_ns
        self._arrived_ns = frame.arrived_ns
        self._count += 1
        if frame.stamp_ns < self._stamp_ns:
            self.stamps_back += 1
        self._stamp_ns = frame.stamp_ns
        self.clock = frame.clock
        self.offset_ms = (frame.received_ns - frame.stamp_ns) / 1e6

    def accepted(self, frame: Frame, width: int, height: int) -> None:
        self._rejection = ""
        self.resolution = f"{width}x{height}"
        self._answered_ns = frame.arrived_ns, time.monotonic_ns()

    def rejected(self, frame: Frame, reason: str) -> None:
        self._rejection = reason
        self._answered_ns = frame.arrived_ns, time.monotonic_ns()

    def state(self, silence: str) -> tuple[InputState, str]:
        """The state and, unless it is OK, the reason in words.

        `silence` is why no image would be coming, as far as the publishers tell.
        """
        if self._arrived_ns == 0:
            return InputState.WAITING, self.qos_problem or silence
        now_ns = time.monotonic_ns()
        silent_s = (now_ns - self._arrived_ns) / 1e9
        if silent_s > max(LOST_AFTER_S, LOST_AFTER_PERIODS * self._period_s):
            return InputState.LOST, f"no image for {silent_s:.1f} s: {silence}"
        arrived_ns, answered_ns = self._answered_ns
        unanswered_s = (now_ns - max(answered_ns, self._pending_ns)) / 1e9
        if arrived_ns < self._arrived_ns and unanswered_s > UNANSWERED_S:
            return InputState.UNANSWERED, f"images come, no answer for {unanswered_s:.1f} s"
        if self._rejection:
            return InputState.REJECTED, self._rejection
        return InputState.OK, ""

    def rate_hz(self) -> float:
        """Images per second since the last call, or the last answer if that was just now."""
        now_ns = time.monotonic_ns()
        elapsed_s = (now_ns - self._counted_since_ns) / 1e9
        if elapsed_s >= RATE_OVER_S:
            self._rate_hz = self._count / elapsed_s
            self._count, self._counted_since_ns = 0, now_ns
        return self._rate_hz


class Camera:
    """Made by configure; `subscribe` and `unsubscribe` follow activate and deactivate.

    The methods of `CameraPort` run in the inference thread (`now_ns` in both), all others in the
    executor's.
    """

    def __init__(
        self,
        node: LifecycleNode,
        index: int,
        settings: CameraSettings,
        prefix: str,
        slots: FrameSlots,
        host: EngineHost,
    ) -> None:
        """`prefix` goes before the output topics; those of tasks that the network lacks are not
        published."""
        self.name = settings.name
        self.compressed = settings.compressed
        raw, compressed = settings.topic, _compressed_name(node, settings.topic)
        # Every remapping rule counts once: rclpy applies them to what it is handed.
        self._handed_topic = compressed if settings.compressed else raw
        self.topic = node.resolve_topic_name(self._handed_topic)
        other = raw.removesuffix("/compressed") if settings.compressed else compressed
        self._other_topic = node.resolve_topic_name(other)
        self.monitor = InputMonitor()
        self.window = TimingWindow()
        self._node = node
        self._clock = node.get_clock()
        self._index = index
        self._slots = slots
        self._host = host
        self._subscription: Subscription | None = None
        self._unknown_encodings: set[str] = set()
        self._next_warning_ns = 0
        self._publishers: list[LifecyclePublisher] = []

        def publisher(
            message: type, topic: str, qos: QoSProfile = OUTPUT_QOS
        ) -> LifecyclePublisher:
            made: LifecyclePublisher = node.create_lifecycle_publisher(message, prefix + topic, qos)
            self._publishers.append(made)
            return made

        tasks = host.perceiver.bundle.manifest.tasks
        self._detections = self._label_info = None
        if "detection" in tasks:
            self._detections = publisher(Detection2DArray, "detections")
            self._label_info = publisher(LabelInfo, "label_info", LATCHED_QOS)
        self._drivable = publisher(Image, "drivable_mask") if "drivable" in tasks else None
        self._lane = publisher(Image, "lane_mask") if "lane" in tasks else None
        self._timing = publisher(DiagnosticArray, "timing")
        self._overlay = publisher(Image, "overlay")

    def subscribe(self, reliable: bool) -> None:
        """Begin to receive; forgets what was known of the input."""
        self.monitor = InputMonitor()
        message = CompressedImage if self.compressed else Image
        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        qos = QoSProfile(depth=1, reliability=reliability)
        # Serialised: of what rclpy would make of it, most is never looked at.
        try:
            self._subscription = self._node.create_subscription(
                message,
                self._handed_topic,
                self._on_image,
                qos,
                raw=True,
                event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_bad_qos),
            )
        except UnsupportedEventTypeError:  # this middleware cannot tell
            self._subscription = self._node.create_subscription(
                message, self._handed_topic, self._on_image, qos, raw=True
            )

    def unsubscribe(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def announce(self, score_threshold: float) -> None:
        """Latch what the class names are, if there are any; the publishers must be active."""
        if self._label_info is None:
            return
        message = label_info_message(self._host.perceiver.bundle.manifest.classes, score_threshold)
        message.header.stamp = self._clock.now().to_msg()
        self._label_info.publish(message)

    def destroy(self) -> None:
        self.unsubscribe()
        for publisher in self._publishers:
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()

    def publishers(self) -> tuple[int, str]:
        """How many the topic has, and why no image would be coming from them."""
        publishers = self._node.get_publishers_info_by_topic(self._handed_topic)
        types = [info.topic_type for info in publishers]
        wanted = COMPRESSED_TYPE if self.compressed else RAW_TYPE
        if not types:
            silence = f"nobody publishes {self.topic}"
            if self._node.count_publishers(self._other_topic):
                silence += f", but {self._other_topic} is published: see {self.name}.transport"
        elif wanted not in types:
            silence = f"{self.topic} is {types[0]}, not {wanted}: see {self.name}.transport"
        else:
            silence = f"{len(types)} publisher(s) on {self.topic}, no image from them"
        return len(types), silence

    def _on_image(self, message: bytes) -> None:
        image = received_image(message, self.compressed)
        frame = Frame(
            camera=self._index,
            payload=image,
            stamp_ns=stamp_ns(image.header),
            received_ns=self.now_ns(),
            arrived_ns=time.monotonic_ns(),
        )
        self.monitor.arrived(frame)
        self._slots.put(frame)
        # Hands the interpreter to the inference thread now, not at the executor's next wait.
        time.sleep(0)

    def _on_bad_qos(self, event: object) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)  # type: ignore[attr-defined]
        self.monitor.qos_problem = (
            f"a publisher on {self.topic} offers an incompatible QoS ({policy}): "
            "set parameter reliability to best_effort"
        )
        self._node.get_logger().error(f"{self.name}: {self.monitor.qos_problem}")

    def now_ns(self) -> int:
        return int(self._clock.now().nanoseconds)

    def read(self, frame: Frame) -> SourceImage:
        return source_image(frame.payload, self._host.perceiver.input_size)

    def reject(self, frame: Frame, outcome: Outcome, reason: str) -> None:
        words = f"{outcome.value}: {reason}"
        self.monitor.rejected(frame, words)
        self._timing.publish(rejection_message(frame.payload.header, self.name, words))
        logger = self._node.get_logger()
        encoding = frame.payload.encoding[:QUOTED_CHARS]
        unknown = outcome is Outcome.MALFORMED and encoding and encoding not in SUPPORTED_ENCODINGS
        if unknown and encoding in self._unknown_encodings:
            return
        if unknown and len(self._unknown_encodings) < NAMED_ENCODINGS:
            self._unknown_encodings.add(encoding)
            logger.error(f"{self.name}: {reason}")
        elif frame.arrived_ns >= self._next_warning_ns:
            self._next_warning_ns = frame.arrived_ns + WARN_PERIOD_NS
            logger.warning(f"{self.name}: {outcome.value} image skipped: {reason}")

    def publish(self, frame: Frame, perception: Perception) -> None:
        header = frame.payload.header
        classes = self._host.perceiver.bundle.manifest.classes
        if self._detections is not None:
            self._detections.publish(detections_message(header, perception, classes))
        for publisher, mask in (
            (self._drivable, perception.drivable),
            (self._lane, perception.lane),
        ):
            if publisher is not None and mask is not None:
                publisher.publish(image_message(header, "mono8", mask))
        height, width = perception.size
        self.monitor.accepted(frame, width, height)

    def report(
        self, frame: Frame, image: SourceImage, perception: Perception, times: FrameTimes
    ) -> None:
        self.window.add(times)
        header, perceiver = frame.payload.header, self._host.perceiver
        self._timing.publish(
            timing_message(header, self.name, perceiver.engine.name, times, frame.clock.value)
        )
        if self._overlay.get_subscription_count():
            classes = perceiver.bundle.manifest.classes
            whole = image if image.full_size is None else source_image(frame.payload)
            picture = draw_overlay(to_rgb(whole), perception, classes)
            self._overlay.publish(image_message(header, "rgb8", picture))


def _blend(mean: float, value: float) -> float:
    # A silence is soon forgotten, or the next one would be told of late.
    return mean + (value - mean) / (2 if value < mean else 8)


def _compressed_name(node: LifecycleNode, topic: str) -> str:
    """What to subscribe for the compressed images of a topic, before remapping.

    As with image_transport, remapping the topic moves the compressed one with it, unless that has
    a rule of its own.
    """
    if topic.endswith("/compressed"):
        return topic
    own = f"{topic}/compressed"
    if node.resolve_topic_name(own) != node.resolve_topic_name(own, only_expand=True):
        return own
    return f"{node.resolve_topic_name(topic)}/compressed"
