"""Commands about networks in use."""

from collections.abc import Sequence

from rexnet.cli.options import read_options


def export(arguments: Sequence[str]) -> None:
    """Write a network to a file for ONNX Runtime, OpenVINO and others"""
    from rexnet.deploy.export import ExportConfig, export_files, told
    from rexnet.detection.detector_files import holds_detector, load_detector

    config = read_options("export", ExportConfig, arguments)
    if not (config.is_checkpoint and holds_detector(config.model)):
        print(told(export_files(config)))
        return
    from rexnet.detection import export as detectors

    options = config.options.for_detector()
    print(detectors.told(detectors.export_detector(load_detector(config.model), config.output, **options)))
