"""Gabion beside its peers, interleaved round by round on the same machine; writes results/NAME.json.

    cargo build --release
    python bench/peers/compare.py train-step --gabion target/release/gabion --out results/train-step.json

`train-step` times one replay of free adversarial training (and `--mode infer` a forward pass) of a ResNet-18 with its
projector, f32, the same sizes and two threads on both sides, and the working memory of both. Each figure is the median
over rounds; a ratio is the median of the rounds' ratios. Augmentation has a command of its own, `gabion bench augment`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def run(command: list[str], environment: dict[str, str] = {}) -> list[dict]:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.strip()}")
    decoder, text, found = json.JSONDecoder(), done.stdout.strip(), []
    while text:
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:].strip()
    return found


def train_step(args: argparse.Namespace) -> tuple[list[dict], dict]:
    sizes = ["--width", str(args.width), "--batch", str(args.batch), "--views", str(args.views)]
    sizes += ["--hidden", str(args.hidden), "--output", str(args.output), "--steps", str(args.steps), "--warmup", "2"]
    kind = "forward" if args.mode == "infer" else "free-at"
    ours = [args.gabion, "bench", kind, *sizes, "--device", "cpu", "--json", "--quiet"]
    theirs = [sys.executable, str(HERE / "train_step.py"), *sizes, "--threads", "2", "--mode", args.mode]
    rounds, versions = [], {}
    for _ in range(args.rounds):
        mine = run(ours, {"RAYON_NUM_THREADS": "2"})[0]
        peer = run(theirs)[0]
        versions = peer["versions"] | mine["versions"]
        rounds.append({
            "gabion_seconds": mine["result"]["median_seconds"],
            "pytorch_seconds": peer["result"]["median_seconds"],
            "gabion_memory_mib": mine["result"]["working_memory_mib"],
            "pytorch_memory_mib": peer["result"]["working_memory_mib"],
        })
    for one in rounds:
        one["time_ratio"] = one["gabion_seconds"] / one["pytorch_seconds"]
        one["memory_ratio"] = one["gabion_memory_mib"] / one["pytorch_memory_mib"]
    return rounds, versions | {"machine": mine["machine"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train-step",))
    parser.add_argument("--gabion", required=True, help="the binary")
    parser.add_argument("--out", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mode", choices=("train", "infer"), default="train")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--output", type=int, default=256)
    parser.add_argument("--steps", type=int, default=6)
    args = parser.parse_args()
    rounds, versions = train_step(args)
    machine = versions.pop("machine")
    medians = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    settings = {key: value for key, value in vars(args).items() if key not in ("gabion", "out", "what")}
    result = {"machine": machine, "versions": versions, "command": f"python bench/peers/compare.py {' '.join(sys.argv[1:])}",
              "settings": settings, "load_average": os.getloadavg(), "median": medians, "rounds": rounds}
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(medians, indent=1))


if __name__ == "__main__":
    main()
