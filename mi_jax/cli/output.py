"""What `mi-jax` prints: the number and the verdict first, then the warnings, then details if asked for; or JSON."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from mi_jax.cli import verdicts
from mi_jax.cli.programs import Programs
from mi_jax.cli.samples import Samples, list_names
from mi_jax.consistency import Property, SelfConsistency
from mi_jax.estimation import Estimate
from mi_jax.estimation.config import EVERY

# Field of `SelfConsistency` -> the property in words.
PROPERTIES = {
    "independence": "shuffled pairs share nothing",
    "data_processing": "functions of x and y share no more than x and y",
    "data_processing_stacked": "adding such functions to x and y changes nothing",
    "additivity": "two independent copies share twice as much as one",
}


def format_estimate(
    result: Estimate,
    samples: Samples,
    seconds: Mapping[str, float],
    programs: Programs,
    *,
    bits: bool = False,
    verbose: bool = False,
) -> str:
    """An estimate for people: the number and its interval, a verdict, the warnings in full, and details if asked for.

    Args:
      result: the estimate, in nats.
      samples: the data.
      seconds: part -> the seconds that it took.
      programs: those that it needed.
      bits: show the estimate in bits. The diagnostics stay in nats.
      verbose: add the data, the fit, the diagnostics, the programs and the seconds.
    """
    shown = result.in_bits() if bits else result
    notes = {name: text for name, text in result.warnings.items() if verdicts.is_note(name)}
    warnings = {name: text for name, text in result.warnings.items() if name not in notes}
    lines = [_format_number(shown), _judge(shown, len(samples.x), len(warnings)), *_explain_independence(result)]
    lines += [f"warning, {name}: {text}" for name, text in warnings.items()]
    lines += [f"note, {name}: {text}" for name, text in notes.items()]
    if verbose:
        lines += ["", _format_table([*_describe_estimate(shown), *_describe_run(result, samples, seconds, programs)])]
    return "\n".join(lines)


def _format_number(shown: Estimate) -> str:
    if not math.isfinite(shown.mi):
        return "mutual information of x and y: no estimate"
    value, low, high = (verdicts.format_value(value, *shown.interval) for value in (shown.mi, *shown.interval))
    interval = f"{100 * shown.confidence:g} % interval {low} to {high}"
    return f"mutual information of x and y: {value} {shown.unit} ({interval})"


def _judge(shown: Estimate, num_rows: int, num_warnings: int) -> str:
    test = shown.independence
    dependent = (
        None if test is None else verdicts.decide_dependence(test.p_value, test.permutations, shown.confidence, test.least)
    )
    return verdicts.judge_estimate(
        shown.mi, shown.interval, unit=shown.unit, num_rows=num_rows, num_warnings=num_warnings, dependent=dependent
    )


def _explain_independence(result: Estimate) -> list[str]:
    if result.independence is None:
        return []
    test = result.independence
    return [verdicts.explain_permutations(test.p_value, test.permutations, result.confidence, test.least)]


def _format_table(rows: Sequence[tuple[str, str]]) -> str:
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def _describe_estimate(shown: Estimate) -> list[tuple[str, str]]:
    """What the interval covers, what it does not, and the estimates of the single fits, in the unit of the estimate."""
    down, up = shown.allowance
    covered = "the choice of test rows, the splits, the random starts and the training"
    if down > 0:
        covered += f"; {down:.3f} further down, for what clipping may have added"
    if up > 0:
        covered += f"; {up:.3f} further up, for the gap between training and test rows and for E_Q[r] other than 1"
    return [
        ("standard error", f"{shown.stderr:.3f} {shown.unit}"),
        ("interval covers", covered),
        ("does not cover", "dependence that this critic cannot learn from so many rows, so the true value may be higher"),
        ("single folds", f"{len(shown.per_fold)}: {', '.join(f'{value:.3f}' for value in shown.per_fold)} {shown.unit}"),
    ]


def _describe_run(
    result: Estimate, samples: Samples, seconds: Mapping[str, float], programs: Programs
) -> list[tuple[str, str]]:
    return [
        ("data", format_samples(samples)),
        ("fit", _describe_fit(result)),
        *_describe_diagnostics(result),
        ("programs", _format_programs(programs)),
        ("seconds", _format_seconds(seconds)),
    ]


def _describe_fit(result: Estimate) -> str:
    config = result.config.candidates[0] if result.config.candidates else result.config
    critic = (result.describe_critic() or ", densities") + result.describe_components()
    if not result.config.rounds:
        return f"{config.estimator}{critic}, with nothing to train"
    against = "" if config.critic is None else f", each x against {config.sub_batch - 1} other y"
    steps = f"at most {config.rounds * EVERY:,} steps"
    return f"{config.estimator}{critic}, batches of {config.batch_size} pairs{against}, {steps}"


def _describe_diagnostics(result: Estimate) -> list[tuple[str, str]]:
    """The diagnostics that mean something for this estimator, in nats."""
    figures = result.diagnostics
    others = ", ".join(f"{value:.3f} {name}" for name, value in figures.read_outs.items())
    clipped = f"clips {figures.clipped_joint:.1%} of the true pairs and {figures.clipped_pairs:.2%} of the shuffled ones"
    best, last = (", ".join(map(str, steps)) for steps in (figures.best_step, figures.last_step))
    # Each line has the number without which it is left out.
    lines = [
        ("ceiling", figures.ceiling, f"InfoNCE cannot exceed {figures.ceiling:.2f} nats"),
        ("tau", figures.tau, f"{figures.tau:.3g}: {clipped}"),
        ("E_Q[r]", figures.log_normaliser, f"{math.exp(min(figures.log_normaliser, 99.0)):.3g}, should be 1"),
        (
            "effective pairs",
            figures.effective_pairs,
            f"{figures.effective_pairs:,.0f} of the {figures.pairs:,.0f} pairs that a fold scores",
        ),
        ("training rows", figures.train, f"{figures.train:.3f} nats, where test rows give {result.mi:.3f}"),
        ("other read-outs", 0.0 if others else math.nan, f"{others}, in nats, from the same critic"),
        ("best steps", 0.0 if result.config.rounds else math.nan, f"{best} of the {last} steps that the folds made"),
    ]
    # The ceiling limits InfoNCE alone, and InfoNCE does not use E_Q[r].
    left_out = {"E_Q[r]", "effective pairs"} if result.config.estimator in ("infonce", "cpc") else {"ceiling"}
    return [(name, text) for name, value, text in lines if name not in left_out and not math.isnan(value)]


def format_samples(samples: Samples) -> str:
    """What was read, in one line.

    Example:
      >>> import numpy as np
      >>> from mi_jax.cli import output, samples
      >>> output.format_samples(samples.Samples(np.zeros((9, 2)), np.zeros(9), ("a", "b"), ("c",), dropped=1))
      '9 rows (1 with a missing entry left out); x: a, b; y: c'
    """
    dropped = f" ({samples.dropped:,} with a missing entry left out)" if samples.dropped else ""
    parts = (
        f"{name}: {list_names(names)}{_describe_shape(rows, names)}"
        for name, rows, names in (("x", samples.x, samples.x_names), ("y", samples.y, samples.y_names))
    )
    return "; ".join([f"{len(samples.x):,} rows{dropped}", *parts])


def _describe_shape(rows: np.ndarray, names: Sequence[str]) -> str:
    """The shape of an array's rows; nothing for columns of a table, whose names say it."""
    return "" if rows.shape[1:] in ((), (len(names),)) else f" of shape {rows.shape[1:]}"


def _format_programs(programs: Programs) -> str:
    if not programs.needed:
        return "compiled, and not kept"
    return f"{programs.kept} loaded from disk, {programs.needed - programs.kept} compiled"


def _format_seconds(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{value:.1f} {name}" for name, value in seconds.items())


def format_check(
    result: SelfConsistency, samples: Samples, seconds: Mapping[str, float], programs: Programs, *, verbose: bool = False
) -> str:
    """The self-consistency tests for people: a verdict, a table of the tests, and details if asked for.

    Args:
      result: the tests.
      samples: the data.
      seconds: part -> the seconds that it took.
      programs: those that it needed.
      verbose: add the formulas with their estimates, the data, the programs and the seconds.
    """
    rows = [
        (found.verdict, PROPERTIES[field], _format_ratio(found.ratio), _format_range(found.interval), _format_target(found))
        for field, found in result._asdict().items()
    ]
    header = ["", "what must hold", "ratio", "interval", "accepted"]
    table = tabulate(rows, header, tablefmt="simple", disable_numparse=True)
    lines = [verdicts.judge_check([found.verdict for found in result]), "", table]
    if verbose:
        details = [(found.says, _format_estimates(found)) for found in result]
        details += [("data", format_samples(samples)), ("programs", _format_programs(programs))]
        details += [("seconds", _format_seconds(seconds))]
        lines += ["", _format_table(details)]
    return "\n".join(lines)


def _format_ratio(ratio: float) -> str:
    return f"{ratio:.3f}" if math.isfinite(ratio) else "unknown"


def _format_range(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}" if all(map(math.isfinite, interval)) else "unknown"


def _format_target(found: Property) -> str:
    low, high = found.target
    return f"{low:g} to {high:g}" if math.isfinite(low) else f"at most {high:g}"


def _format_estimates(found: Property) -> str:
    return ", ".join(f"{name} = {measured.mi:.3f}" for name, measured in found.estimates.items()) + " nats"


def to_json(
    result: Estimate | SelfConsistency,
    samples: Samples,
    seconds: Mapping[str, float],
    programs: Programs,
    *,
    bits: bool = False,
) -> dict[str, Any]:
    """The same for programs: a dict for `json.dumps`, with None where a number is not finite."""
    content = _collect_tests(result) if isinstance(result, SelfConsistency) else _collect_estimate(result, bits)
    data = {"rows": len(samples.x), "x": samples.x_names, "y": samples.y_names, "dropped": samples.dropped}
    plain: dict[str, Any] = to_plain(content | {"data": data, "programs": programs, "seconds": seconds})
    return plain


def _collect_estimate(result: Estimate, bits: bool) -> dict[str, Any]:
    shown = result.in_bits() if bits else result
    config = result.config
    trained = {
        "estimator": config.estimator,
        "critic": None if config.critic is None else type(config.critic).__name__,
        "batch_size": config.batch_size,
        "num_negatives": config.sub_batch - 1,
        "steps": config.rounds * EVERY,
        "patience": config.patience * EVERY,
        "learning_rate": config.learning_rate,
        "max_pairs": config.max_pairs,
        "components": [columns.name for columns in result.columns if columns.unmixing is not None],
    }
    names = ("mi", "stderr", "interval", "allowance", "confidence", "unit", "per_fold", "warnings")
    return {name: getattr(shown, name) for name in names} | {
        "independence": result.independence,
        "diagnostics": {"unit": "nats"} | result.diagnostics._asdict(),
        "config": trained,
    }


def _collect_tests(result: SelfConsistency) -> dict[str, Any]:
    return {"passes": result.passes, "unit": "nats", "properties": list(result)}


def to_plain(value: Any) -> Any:
    """Named tuples as dicts, arrays as lists, and None for a number that is not finite.

    Example:
      >>> import numpy as np
      >>> from mi_jax.cli import output
      >>> output.to_plain({"per_fold": np.array([0.5, np.nan])})
      {'per_fold': [0.5, None]}
    """
    if isinstance(value, Mapping):
        return {str(name): to_plain(inner) for name, inner in value.items()}
    if hasattr(value, "_asdict"):
        return to_plain(value._asdict())
    if isinstance(value, list | tuple):
        return [to_plain(inner) for inner in value]
    if isinstance(value, np.ndarray | np.generic):
        return to_plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
