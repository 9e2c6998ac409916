"""The command about networks."""

from collections.abc import Sequence

from rexnet.cli.options import fail
from rexnet.cli.tables import new_table, percent, show


def models(arguments: Sequence[str]) -> None:
    """List the networks, their size and their published weights"""
    if arguments:
        _show_help_or_fail("models", arguments, "lists all networks; it takes no options")
        return

    import torch

    from rexnet.models.cost import measure_cost
    from rexnet.models.factory import create_model
    from rexnet.models.published import published_for
    from rexnet.models.variants import list_models

    table = new_table("network", "parameters M", "MACs G at 224 px", "published weights (their publisher's top-1 %)")
    for name in list_models():
        with torch.device("meta"):
            cost = measure_cost(create_model(name))
        rows = [f"{row.name} {percent(row.top1_percent)}" for row in published_for(name)]
        table.add_row(name, f"{cost.parameters / 1e6:.2f}", f"{cost.macs / 1e9:.3f}", "\n".join(rows))
    show(table)
    print("any other width: rexnet_117 is width 1.17, also with rexnetr_ and rexnet_lite_")


def _show_help_or_fail(command: str, arguments: Sequence[str], sentence: str) -> None:
    if arguments[0] not in ("-h", "--help"):
        fail(f"unrecognized options {' '.join(arguments)}; rexnet {command} {sentence}", code=2)
    print(f"usage: rexnet {command}\n\nrexnet {command} {sentence}.")
