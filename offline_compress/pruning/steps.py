"""Pruning steps as records: what each aimed at, what it left, and the plan that they add up to."""

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from offline_compress.export import count_macs, count_parameters
from offline_compress.importance import ChannelScores
from offline_compress.pruning.channel_choice import Choice, Kept
from offline_compress.pruning.cost import KINDS
from offline_compress.pruning.plan import Plan, PlanStep, composed
from offline_compress.pruning.problem import PruningProblem


def lists(kept: Kept) -> dict[str, list[int]]:
    """The same as JSON has it."""
    return {name: channels.tolist() for name, channels in kept.items()}


def remaining(scores: ChannelScores, kept: Kept) -> ChannelScores:
    """The scores of the channels that are kept."""
    return replace(
        scores,
        taylor={name: scores.taylor[name][:, channels] for name, channels in kept.items()},
        joint={name: scores.joint[name][channels] for name, channels in kept.items()},
        conflict={name: scores.conflict[name][:, channels] for name, channels in kept.items()},
    )


def predicted_step(problem: PruningProblem, budget: dict[str, float], kept: Kept) -> PlanStep:
    """A step of which nothing but the costs is known, and those by prediction."""
    counts = {name: len(channels) for name, channels in kept.items()}
    parameters, macs, latency_ms = problem.costs.total(counts)
    unpruned_ms = float(problem.whole[KINDS.index("latency")])
    return PlanStep(
        budget=budget,
        channels=counts,
        parameters=round(parameters),
        gmacs=macs / 1e9,
        latency_ms=round(float(latency_ms), 4) if unpruned_ms else None,
        teacher_latency_ms=round(unpruned_ms, 4) or None,
        remains=_remains(
            problem, parameters, macs, float(latency_ms / unpruned_ms) if unpruned_ms else None
        ),
    )


def measured_step(
    problem: PruningProblem, budget: dict[str, float], choice: Choice, cut: nn.Module
) -> PlanStep:
    """A step that has led to the network `cut`, before any validation."""
    parameters, gmacs = count_parameters(cut), count_macs(cut, problem.inputs) / 1e9
    return PlanStep(
        budget=budget,
        channels={name: len(channels) for name, channels in choice.kept.items()},
        parameters=parameters,
        gmacs=gmacs,
        latency_ms=choice.latency_ms,
        teacher_latency_ms=choice.teacher_latency_ms,
        remains=_remains(problem, parameters, gmacs * 1e9, choice.ratio),
    )


def _remains(
    problem: PruningProblem, parameters: float, macs: float, latency: float | None
) -> dict[str, float]:
    """Fractions of the teacher's costs by kind; `latency` is one already, None: unknown."""
    known = {"parameters": parameters / problem.whole[0], "macs": macs / problem.whole[1]}
    if latency is not None:
        known["latency"] = latency
    return {kind: round(float(share), 4) for kind, share in known.items()}


def extended(plan: Plan, problem: PruningProblem, step: PlanStep, kept: Kept) -> Plan:
    """The plan with one more step, which keeps `kept` of what there was."""
    return plan.model_copy(
        update={
            "steps": [*plan.steps, step],
            "kept": composed(problem.groups, plan.kept, lists(kept)),
        }
    )


def with_last(plan: Plan, **fields: object) -> Plan:
    """The plan with its last step changed."""
    *before, last = plan.steps
    return plan.model_copy(update={"steps": [*before, last.model_copy(update=fields)]})


def summary(
    problem: PruningProblem, plan: Plan, figures: Sequence[tuple[str, float, float]]
) -> str:
    """The last step as one line. `figures`: title, before and after of each."""
    step = plan.steps[-1]
    shares = step.remains
    parts = [
        f"{step.parameters / 1e6:.2f} M parameters ({shares['parameters']:.0%})",
        f"{step.gmacs:.2f} GMACs ({shares['macs']:.0%})",
    ]
    if "latency" in shares:
        parts.append(f"{step.latency_ms:.1f} ms ({shares['latency']:.0%})")
    parts += [
        f"{kind} {shares[kind]:.3f} of {most:.3f} budgeted"
        for kind, most in step.budget.items()
        if shares[kind] > most
    ]
    parts += [f"{title} {before:.1f} -> {after:.1f}" for title, before, after in figures]
    text = f"step {len(plan.steps)} of {problem.rules.steps}: {', '.join(parts)}"
    return f"{text}; taken back: {step.taken_back}" if step.taken_back else text
