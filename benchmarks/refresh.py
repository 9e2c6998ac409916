"""`python benchmarks/refresh.py --stale` lists files of results/ whose newest row is older than the code it speaks of.

A row is compared by its commit where the history has it, or else by its date. Every row also depends on its own script;
ranks, trainings and speeds change with the folders named here.
"""

import subprocess
import sys

import records

MODELS, TRAINING, STUDY = "src/rexnet/models", "src/rexnet/training", "src/rexnet/study"
DETECTION, ENGINES, SERVE = "src/rexnet/detection", "src/rexnet/engines", "src/rexnet/serve"
RANKS, DATA, SEARCH = "src/rexnet/ranks", "src/rexnet/data", "src/rexnet/search"
SOURCES: dict[str, tuple[str, ...]] = {
    "backbone_cpu": (MODELS, TRAINING),
    "cases_cpu": (MODELS, ENGINES),
    "classification": (MODELS, TRAINING, DATA),
    "cli_help_cpu": ("src/rexnet/cli",),
    "coco_evaluation_cpu": (DETECTION,),
    "control_cpu": (MODELS, TRAINING),
    "deployment_cpu": (MODELS, ENGINES),
    "depth": (STUDY, RANKS),
    "detection": (DETECTION, TRAINING),
    "detector_cost": (DETECTION, MODELS),
    "detector_recipes_cpu": (DETECTION, TRAINING),
    "detector_speed_cpu": (DETECTION, MODELS),
    "distillation_cpu": (MODELS, TRAINING),
    "factor_layouts": (STUDY, MODELS),
    "factors": (STUDY, RANKS, TRAINING),
    "finetune_cpu": (MODELS, TRAINING),
    "finetune_rates_cpu": (TRAINING,),
    "frozen_cpu": (MODELS, TRAINING),
    "image_folder_cpu": (DATA, ENGINES),
    "input_cpu": (DATA,),
    "int8_cpu": (MODELS, ENGINES),
    "native_accuracy_cpu": (ENGINES,),
    "native_endurance_cpu": (ENGINES,),
    "native_peak_cpu": (ENGINES,),
    "peers_cpu": (MODELS, ENGINES),
    "principles": (STUDY, MODELS, TRAINING),
    "profile_cpu": (ENGINES,),
    "quantization_cpu": ("src/rexnet/deploy", ENGINES),
    "rank": (STUDY, RANKS),
    "rank_protocol_fit": (STUDY, RANKS),
    "rank_study_cpu": (STUDY, RANKS),
    "recipes_cpu": (MODELS, TRAINING),
    "resume": (TRAINING,),
    "rewritten": (STUDY,),
    "search": (SEARCH, TRAINING),
    "search_speed_cpu": (SEARCH,),
    "serve_fuzz_cpu": (SERVE,),
    "serve_load_cpu": (SERVE, ENGINES),
    "smoke_cpu": ("src/rexnet",),
    "spectra": (STUDY, RANKS, MODELS),
    "throughput_cpu": (MODELS,),
    "throughput_cuda": (MODELS,),
    "training_step_cpu": (TRAINING, MODELS),
    "weight_hashes": (TRAINING, MODELS),
}


def git(*arguments: str) -> list[str]:
    command = ["git", "-C", str(records.RESULTS.parent), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []


def changes_since(row: dict, folders: tuple[str, ...]) -> int:
    """Return how many commits changed these folders after the row's."""
    commit = row["commit"].partition("+")[0]
    known = commit and git("merge-base", commit, "HEAD")
    since = [f"{commit}..HEAD"] if known else [f"--since={row['date']}T23:59:59"]
    return len(git("log", "--format=%h", *since, "--", *folders))


def stale() -> list[str]:
    """Return a line for each file whose code has changed since its newest row, with the command that renews it."""
    lines = []
    for name, folders in SOURCES.items():
        rows = records.read(name)
        if rows and (count := changes_since(rows[-1], folders)):
            date, commit, command = (rows[-1][key] or "-" for key in ("date", "commit", "command"))
            lines.append(f"{name}: {date} at {commit}, {count} commits in {', '.join(folders)} since; {command}")
    return lines


if __name__ == "__main__":
    if sys.argv[1:] != ["--stale"]:
        sys.exit(__doc__)
    print("\n".join(stale()))
