"""What a step of a plan is called, for whoever shows it."""

from __future__ import annotations

from fastconv.plan.steps import Add, Concat, LayerStep, Multiply, OperationStep, Step

__all__ = ["kind_of", "name_of"]


def name_of(step: Step) -> str:
    """As in state_dict; a container's own join has the container's name, a fused step its parts' joined by +."""
    if step.is_fused:
        return "+".join(map(name_of, step.parts))  # type: ignore[attr-defined]
    if not isinstance(step, Add | Concat | Multiply):
        return step.name
    around = [name for name, _ in reversed(step.within)]
    own = step.within[0][1] if step.within else ""
    return ".".join(around) if around and step.name == own else ".".join([*around, step.name])


def kind_of(step: Step) -> str:
    """The class of its layer; of what joins, the step's: Add, Concat, Multiply; of a fused step its parts', with +."""
    if step.is_fused:
        return "+".join(map(kind_of, step.parts))  # type: ignore[attr-defined]
    what = step.layers[0] if isinstance(step, LayerStep | OperationStep) else step
    return str(getattr(what, "kind", type(what).__name__))
