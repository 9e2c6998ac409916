"""The tables of docs/paper.md: the paper's, with ours beside them."""

from collections.abc import Callable

import paper_claims
import published
import records
from markdown_tables import table


def claims() -> str:
    header = ["paper", "claim", "published", "ours", "residual", "verdict"]
    return table(header, [list(claim[:6]) for claim in paper_claims.claims()])


def _plain(header: tuple[str, ...], rows: published.Rows) -> str:
    return table([*header[:1], *(f"{name} (published)" for name in header[1:])], [list(row) for row in rows])


def _networks(networks: dict[str, tuple[str, str, str, str, str, str]]) -> str:
    counted = paper_claims.counted_sizes(networks)
    rows = []
    for name, (top1, top5, *sizes, cpu_ms, gpu_ms) in networks.items():
        if name in counted:
            parameters, macs = counted[name][1]
            sizes = [f"{sizes[0]} / {parameters:.2f}", f"{sizes[1]} / {macs:.3f}"]
        rows.append([f"`{name}`", " / ".join(filter(None, (top1, top5))), *sizes, f"{cpu_ms} / {gpu_ms}"])
    header = ["network", "top-1 / top-5, % (published)", "parameters, M (published / ours)"]
    return table([*header, "MACs, G (published / ours)", "ms, CPU / GPU (published)"], rows)


def detectors() -> str:
    newest = {(row["kind"], row["backbone"]): row for row in records.read("detector_cost")}
    rows = []
    for (kind, backbone), (boxes, masks) in published.DETECTORS.items():
        cost = newest[kind, backbone]
        parameters = f"{cost['parameters_m']} / {cost['parameters'] / 1e6:.2f}"
        macs = f"{cost['macs_g']} / {cost['macs'] / 1e9:.{3 if kind == 'ssdlite' else 1}f}"
        rows.append([kind, f"`{backbone}`", boxes, masks, parameters, macs])
    header = ["detector", "backbone", "boxes, AP / AP50 / AP75 (published)", "masks (published)"]
    return table([*header, "parameters, M (published / ours)", "MACs, G (published / ours)"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "paper_claims": claims,
    "paper_1": lambda: _plain(published.TABLE_1_HEADER, published.TABLE_1),
    "paper_4": lambda: _plain(published.TABLE_4_HEADER, published.TABLE_4),
    "paper_5": lambda: _networks(published.FAMILY),
    "paper_lite": lambda: _networks(published.LITE),
    "paper_nonlinearities": lambda: _plain(published.NONLINEARITIES_HEADER, published.NONLINEARITIES),
    "paper_detectors": detectors,
    "paper_ssdlite": lambda: _plain(published.SSDLITE_OTHERS_HEADER, published.SSDLITE_OTHERS),
    "paper_8": lambda: _plain(published.TABLE_8_HEADER, published.TABLE_8),
}
