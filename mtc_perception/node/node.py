"""The lifecycle node `perception`: parameters in, wiring, nothing else."""

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from mtc_perception_interfaces.srv import LoadEngine
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.guard_condition import GuardCondition
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from mtc_perception.core.bundle import Limits, Manifest, read_bundle
from mtc_perception.core.tasks import TASKS
from mtc_perception.engines.tensorrt.missing import build_missing_engine
from mtc_perception.node.camera import Camera
from mtc_perception.node.diagnostics import (
    blinding,
    camera_status,
    engine_status,
    unconfigured_status,
)
from mtc_perception.node.load_engine import EngineService, Swap
from mtc_perception.node.parameters import LiveSettings, Parameters, Settings
from mtc_perception.runtime.frames import FrameSlots
from mtc_perception.runtime.host import LOAD_S, EngineHost, in_time, release
from mtc_perception.runtime.perceiver import Perceiver, Selection, open_perceiver
from mtc_perception.runtime.worker import STOP_S, InferenceWorker
from mtc_perception.util.deadline import Deadline
from mtc_perception.util.errors import EngineError, UserError, one_line
from mtc_perception.util.memory import keep_memory
from mtc_perception.util.opencv_threads import use_one_opencv_thread

SUCCESS, FAILURE, ERROR = (
    TransitionCallbackReturn.SUCCESS,
    TransitionCallbackReturn.FAILURE,
    TransitionCallbackReturn.ERROR,
)

BUILD_LOG_PERIOD_S = 5.0
NAMESAKE_LOG_PERIOD_S = 60.0
EXIT_S = 0.5
"""How long threads that are no longer needed may take to end."""


@dataclass(slots=True)
class Configured:
    """What exists from configure to cleanup."""

    settings: Settings
    host: EngineHost
    slots: FrameSlots
    limits: Limits
    max_frame_age_ms: float
    cameras: list[Camera]


class PerceptionNode(LifecycleNode):
    """Perceives the newest image of every camera, in one inference thread of its own.

    The executor's thread only stores images, answers services and publishes /diagnostics; what
    the other threads must tell it goes through guard conditions.
    """

    def __init__(self, **node_options: Any) -> None:
        """`node_options` are those of rclpy's `Node`."""
        super().__init__("perception", **node_options)
        self._state = "unconfigured"
        self._failure = ""
        self._configured: Configured | None = None
        self._worker: InferenceWorker | None = None
        self._params = Parameters(self, self._on_live)
        # Not a lifecycle publisher: a node that could not be configured must be able to say so.
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Steady: with use_sim_time and nobody publishing /clock, ROS time stands still.
        self._timer = self.create_timer(
            self._params.diagnostics_period_s,
            self._publish_diagnostics,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        self._engine_gone = self.create_guard_condition(self._on_engine_gone)
        self._frame_late = self.create_guard_condition(self._publish_diagnostics)
        self._engine_service = EngineService(self, self._prepare_swap, self._publish_diagnostics)
        self._next_progress_s = 0.0

    def start(self) -> None:
        """With parameter `autostart`, configure and activate; what fails is logged as ever."""
        if not self._params.autostart:
            self.get_logger().info("unconfigured: waiting for lifecycle transitions (autostart)")
            return
        if self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._enter("configuring")
        try:
            self._configure()
        except Exception as error:  # rclpy would swallow it without a word
            return self._refuse(one_line(error))
        result = super().on_configure(state)
        self._enter("inactive")
        return result

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = super().on_activate(state)
        assert self._configured is not None
        try:
            self._activate(self._configured)
        except Exception as error:
            self._stop()
            super().on_deactivate(state)
            self.get_logger().error(f"cannot activate: {one_line(error)}")
            return FAILURE
        self._enter("active")
        for camera in self._configured.cameras:
            self.get_logger().info(f"{camera.name}: listening to {camera.topic}")
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop()
        super().on_deactivate(state)
        if self._failure:
            return ERROR
        self._enter("inactive")
        return SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        self._enter("unconfigured")
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        self._enter("finalized")
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give everything back; the node may be configured again."""
        self._release()
        self._enter("unconfigured")
        return SUCCESS

    def close(self) -> None:
        """Stop the threads and free the engines, in whatever state the node is."""
        self._release()
        self._engine_service.close()

    def _configure(self) -> None:
        settings = self._params.settings()
        self._params.check_bundle(settings.selection.bundle)
        for name in self._params.unknown_overrides():
            self.get_logger().warning(f"there is no parameter {name}: it has no effect")
        if settings.build_engine:
            self._build_engine(settings.selection)
        self.get_logger().info(f"loading {settings.selection}")
        perceiver = self._load(settings.selection)
        live = self._params.live()
        # From here on `_release` closes the engine, whatever fails.
        self._configured = configured = Configured(
            settings=settings,
            host=EngineHost(settings.selection, perceiver),
            slots=FrameSlots(len(settings.cameras)),
            limits=_limits(live, perceiver.bundle.manifest),
            max_frame_age_ms=live.max_frame_age_ms,
            cameras=[],
        )
        self.get_logger().info(perceiver.why)
        if lacking := [task for task in TASKS if task not in perceiver.bundle.manifest.tasks]:
            self.get_logger().info(f"the network has no {', no '.join(lacking)}: not published")
        for index, camera in enumerate(settings.cameras):
            prefix = f"{camera.name}/" if len(settings.cameras) > 1 else ""
            configured.cameras.append(
                Camera(self, index, camera, prefix, configured.slots, configured.host)
            )
        self._timer.timer_period_ns = int(self._params.diagnostics_period_s * 1e9)
        configured.host.try_fallback()
        self._failure = self._engine_service.state = ""
        self._params.locked = True

    def _load(self, selection: Selection) -> Perceiver:
        begin_s, deadline = time.monotonic(), Deadline(LOAD_S)

        def tell() -> None:
            seconds = time.monotonic() - begin_s
            self._tell_progress(f"loading {selection}, {seconds:.0f} s")

        return in_time(partial(open_perceiver, selection, deadline), deadline, tell)

    def _build_engine(self, selection: Selection) -> None:
        """Build the TensorRT engine if it is missing; where `auto` may choose, nothing must be."""
        if selection.engine not in ("auto", "tensorrt"):
            return
        try:
            bundle = read_bundle(selection.bundle, selection.trusted_keys)
            built = build_missing_engine(bundle, selection.precision, self._on_build_progress)
        # Nothing more: an interrupt inside rclpy's C++ comes out as some other error.
        except (UserError, OSError) as error:
            if selection.engine == "tensorrt":
                raise
            self.get_logger().warning(f"no TensorRT engine is built: {one_line(error)}")
            return
        if built:
            self.get_logger().info(built)

    def _on_build_progress(self, phase: str, fraction: float) -> None:
        progress = f"building the TensorRT engine, {fraction:.0%} ({phase})"
        self.get_logger().info(progress, throttle_duration_sec=BUILD_LOG_PERIOD_S)
        self._tell_progress(progress)

    def _tell_progress(self, progress: str) -> None:
        """Nothing else is served during configure, so the diagnostics are kept up from here."""
        if time.monotonic() >= self._next_progress_s:
            self._next_progress_s = time.monotonic() + self._params.diagnostics_period_s
            self._enter(f"configuring: {progress}")

    def _activate(self, configured: Configured) -> None:
        for camera in configured.cameras:
            camera.subscribe(configured.settings.reliable)
            camera.announce(configured.limits.thresholds.score)
        configured.slots.open()
        self._worker = InferenceWorker(
            configured.slots,
            configured.host,
            configured.cameras,
            configured.limits,
            configured.max_frame_age_ms,
            on_degraded=self._warn,
            on_failure=self._fail,
            on_late=partial(self._trigger, self._frame_late),
        )

    def _stop(self) -> None:
        """From active to inactive."""
        if self._configured is not None:
            for camera in self._configured.cameras:
                camera.unsubscribe()
        if self._worker is not None:
            if not self._worker.stop():
                self._failure = f"an image was not done in {STOP_S:g} s: its engine is given up"
                self.get_logger().error(self._failure)
            self._worker = None

    def _release(self) -> None:
        """From any state to unconfigured."""
        self._stop()
        if self._configured is not None:
            for camera in self._configured.cameras:
                camera.destroy()
            self._configured.host.close()
            self._configured = None
        self._params.locked = False

    def _refuse(self, reason: str) -> TransitionCallbackReturn:
        """End a configure that failed."""
        self._release()
        if not self.context.ok():
            # A signal came in between, and this is only its echo. Nobody waits for the end of the
            # transition, which rclpy would call an error.
            raise KeyboardInterrupt
        self._failure = reason
        self.get_logger().error(f"cannot configure: {reason}")
        self._enter("unconfigured")
        return FAILURE

    def _enter(self, state: str) -> None:
        self._state = state
        self._publish_diagnostics()

    def _on_live(self, live: LiveSettings) -> None:
        configured = self._configured
        if configured is None:
            return
        configured.max_frame_age_ms = live.max_frame_age_ms
        if self._worker is not None:
            self._worker.max_frame_age_ms = live.max_frame_age_ms
        self._set_limits(configured, _limits(live, configured.host.perceiver.bundle.manifest))

    def _set_limits(self, configured: Configured, limits: Limits) -> None:
        configured.limits = limits
        if self._worker is not None:
            self._worker.limits = limits
            for camera in configured.cameras:
                camera.announce(limits.thresholds.score)

    def _prepare_swap(self, request: LoadEngine.Request) -> Swap:
        """What `EngineService` needs for a request. Raises EngineError."""
        configured = self._configured
        if configured is None:
            raise EngineError(
                "the node is unconfigured: set the parameters bundle, engine and precision, and"
                " configure it"
            )
        selection = self._params.selection(request.bundle, request.engine, request.precision)
        self._params.check_swap(
            selection.bundle if request.bundle else None, configured.settings.selection.bundle
        )
        return Swap(selection, configured.slots.pause, partial(self._switch, configured, selection))

    def _switch(self, configured: Configured, selection: Selection, perceiver: Perceiver) -> str:
        """Put `perceiver` in charge, while the frames pause, and say what runs now.

        Closes the one that is not needed: the former, or `perceiver` if it raises EngineError.
        """
        unneeded = perceiver
        try:
            if self._configured is not configured or self._failure:
                raise EngineError("the node was cleaned up or failed while the engine was loading")
            former = configured.host.perceiver
            _check_same_tasks(former.bundle.manifest, perceiver.bundle.manifest)
            limits = _limits(self._params.live(), perceiver.bundle.manifest)
            configured.host.switch(selection, perceiver)
            unneeded = former
            configured.host.try_fallback()
            problems = self._follow(configured, limits, selection)
        finally:
            configured.slots.resume()
            release(unneeded)
        for problem in problems:
            self.get_logger().error(f"load_engine: {problem}")
        return "; but ".join((perceiver.why, *problems))

    def _follow(self, configured: Configured, limits: Limits, selection: Selection) -> list[str]:
        """Adapt everything else to an engine that is in charge; what of it failed does not undo
        the switch."""
        problems = []
        for adapt in (
            partial(self._set_limits, configured, limits),
            partial(self._params.follow, selection),
        ):
            try:
                adapt()
            except Exception as error:  # rclpy's own, or of somebody's callback
                problems.append(one_line(error))
        return problems

    def _warn(self, text: str) -> None:
        self.get_logger().warning(text)

    def _fail(self, reason: str) -> None:
        """Called by the inference thread as it ends."""
        self._failure = reason
        self._trigger(self._engine_gone)

    def _trigger(self, condition: GuardCondition) -> None:
        """Called by other threads than the executor's."""
        # When the context is gone, publishing fails first: that is a shutdown, not a failure.
        if self.context.ok():
            condition.trigger()

    def _on_engine_gone(self) -> None:
        if self._worker is None:
            return
        self.get_logger().error(f"inference stopped: {self._failure}")
        self.trigger_deactivate()

    def _publish_diagnostics(self) -> None:
        if not self.context.ok():
            return
        name, configured, namesakes = self.get_name(), self._configured, self._namesakes()
        if configured is None:
            statuses = [unconfigured_status(name, self._state, self._failure, namesakes)]
        else:
            active = self._worker is not None
            swap = self._engine_service.state
            host, limits, age_ms = configured.host, configured.limits, configured.max_frame_age_ms
            late = self._worker.late() if self._worker is not None else ""
            tasks = host.perceiver.bundle.manifest.tasks
            warning = "; ".join(filter(None, (blinding(limits, tasks), namesakes)))
            statuses = [engine_status(name, self._state, host, late, limits, age_ms, swap, warning)]
            statuses += [
                camera_status(name, camera, counters, active)
                for camera, counters in zip(
                    configured.cameras, configured.slots.counters(), strict=True
                )
            ]
        message = DiagnosticArray(status=statuses)
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _namesakes(self) -> str:
        """A warning of other nodes of this name: their services and outputs are the same."""
        own = self.get_name(), self.get_namespace()
        others = self.get_node_names_and_namespaces().count(own) - 1
        if others < 1:
            return ""
        words = f"{others} more node(s) of the name {self.get_fully_qualified_name()}: rename one"
        self.get_logger().warning(words, throttle_duration_sec=NAMESAKE_LOG_PERIOD_S)
        return words


def _limits(live: LiveSettings, manifest: Manifest) -> Limits:
    return Limits(
        thresholds=live.thresholds(manifest.thresholds),
        max_detections=live.max_detections or manifest.max_detections,
    )


def _check_same_tasks(former: Manifest, new: Manifest) -> None:
    """Outputs do not come or go under those who subscribe to them. Raises EngineError."""
    if former.tasks != new.tasks:
        raise EngineError(
            f"{new.name} has the tasks {', '.join(new.tasks)}, the running {former.name}"
            f" {', '.join(former.tasks)}: set the parameter bundle and configure the node again"
        )


def main(args: list[str] | None = None) -> int:
    """Run the node until Ctrl-C, SIGTERM or shutdown; 2 if it cannot start, or not go on."""
    code = _run(args)
    left = [thread for thread in threading.enumerate() if thread.daemon]
    for thread in left:
        thread.join(EXIT_S / len(left))
    if any(thread.is_alive() for thread in left):
        # It hangs in an engine: the end of the interpreter would wait for what that engine started,
        # or take the memory from under it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _run(args: list[str] | None) -> int:
    node = None
    interrupted = ending = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        if not (interrupted or ending):
            interrupted = True
            raise KeyboardInterrupt

    keep_memory()
    use_one_opencv_thread()
    # SIGTERM interrupts whatever runs, as Ctrl-C does, even a long configure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        try:
            rclpy.init(args=args)
        except RuntimeError as error:  # what every error of rcl derives from
            raise UserError(str(error)) from error
        node = PerceptionNode()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        node.start()
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (UserError, ParameterException, NameValidationException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        # As rclpy takes an image, after which that topic yields nothing any more.
        print(f"error: there is not enough memory: {error}", file=sys.stderr)
        return 2
    except Exception:
        # Raised inside rclpy's C++, a KeyboardInterrupt comes out as some other error.
        if not interrupted:
            raise
    finally:
        # Before any call: rclpy may have seen the signal, and ended `spin`, before Python does. And
        # Ctrl-C under `ros2 launch` arrives twice: the second must interrupt nothing.
        ending = True
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
