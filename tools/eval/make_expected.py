#!/usr/bin/env python3
"""Writes tests/data/eval: frames with predicted and recorded actions, and all metrics of them,
computed with numpy.

    python3 tools/eval/make_expected.py      (needs numpy)

Independent of the Rust code: `digitize`, `linspace`, `percentile` and `corrcoef` are numpy's, the
action tokenizer follows OpenVLA's training code.
"""

import json
from pathlib import Path

import numpy as np

OUT = Path(__file__).resolve().parents[2] / "tests/data/eval"
NAMES = ["dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"]
END, BINS = 32000, np.linspace(-1, 1, 256)
CENTRES = (BINS[:-1] + BINS[1:]) / 2
Q01 = np.array([-0.0187, -0.0051, -0.0112, -0.0387, -0.0349, -0.0063, 0.0])
Q99 = np.array([0.0428, 0.0418, 0.0287, 0.0221, 0.0211, 0.0201, 1.0])
MASK = np.array([True] * 6 + [False])
THRESHOLD = 0.5


def normalize(x):
    return np.clip(np.where(MASK, 2 * (x - Q01) / (Q99 - Q01 + 1e-8) - 1, x), -1, 1)


def tokens_of(normalized):
    return END - np.digitize(np.clip(normalized, -1, 1), BINS)


def bins_of(ids):
    return np.clip(END - ids - 1, 0, 254)


def decode(ids):
    centres = CENTRES[bins_of(ids)]
    return centres, np.where(MASK, 0.5 * (centres + 1) * (Q99 - Q01) + Q01, centres)


def value(x):
    return None if x is None or not np.isfinite(x) else float(x)


def mean(x):
    return value(np.mean(x)) if len(x) else None


def main():
    rng = np.random.default_rng(11)
    pairs, arrays = [], {"p": [], "r": [], "pn": [], "rn": [], "pt": [], "rt": []}
    latency = {name: [] for name in ("preprocess", "vision", "decode", "total")}
    for frame in range(60):
        step = {
            "bag": frame // 40,
            "frame": frame % 40,
            "log_time": 1_700_000_000_000_000_000 + frame * 200_000_000,
            "stamp": None if frame % 7 else 5 + frame,
            "size": [640, 480],
            "instruction": 'pick, "up"\tit',
        }
        recorded_action = rng.uniform(Q01 - 0.01, Q99 + 0.01)
        recorded_action[6] = rng.choice([0.0, 1.0])
        known = np.ones(7, bool)
        if frame % 11 == 3:
            known[6] = False
        recorded_normalized = normalize(recorded_action)
        ids = np.clip(
            tokens_of(recorded_normalized) + rng.integers(-3, 4, 7) * rng.integers(0, 2, 7),
            31744,
            31999,
        )
        if frame % 5 == 0:
            ids[6] = rng.choice([31744, 31745, 31999])
        normalized, action = decode(ids)
        if frame % 13 == 5:
            step["outcome"] = {"failure": "token 29871 is no action token"}
        else:
            times = rng.gamma(4, 20, 3)
            step["outcome"] = {
                "action": {
                    "token_ids": ids.tolist(),
                    "normalized": normalized.tolist(),
                    "action": action.tolist(),
                    "logit_margins": np.float32(rng.uniform(0, 5, 7)).tolist(),
                    "stages": [
                        [name, float(t)]
                        for name, t in zip(("preprocess", "vision", "decode"), times)
                    ],
                }
            }
            for name, t in zip(("preprocess", "vision", "decode"), times):
                latency[name].append(t)
            latency["total"].append(float(times[0]) + float(times[1]) + float(times[2]))
        recorded = None
        if frame % 17 != 9:
            pick = lambda row, cast: [cast(x) if k else None for x, k in zip(row, known)]
            recorded = {
                "time": step["log_time"] + 7,
                "action": pick(recorded_action, float),
                "normalized": pick(recorded_normalized, float),
                "token_ids": pick(tokens_of(recorded_normalized), int),
            }
        pairs.append({"step": step, "recorded": recorded})
        if recorded and "action" in step["outcome"]:
            hide = lambda row: np.where(known, row, np.nan)
            for key, row in (
                ("p", action),
                ("r", hide(recorded_action)),
                ("pn", normalized),
                ("rn", hide(recorded_normalized)),
                ("pt", ids.astype(float)),
                ("rt", hide(tokens_of(recorded_normalized).astype(float))),
            ):
                arrays[key].append(row)
    p, r, pn, rn, pt, rt = (np.array(arrays[key]) for key in ("p", "r", "pn", "rn", "pt", "rt"))
    known = np.isfinite(rt)
    distance = np.abs(bins_of(pt) - bins_of(np.where(known, rt, 31999)))
    dimensions = []
    for i, name in enumerate(NAMES):
        k = known[:, i]
        error = p[k, i] - r[k, i]
        dimensions.append(
            {
                "name": name,
                "n": int(k.sum()),
                "mae": mean(np.abs(error)),
                "rmse": value(np.sqrt(np.mean(error**2))),
                "bias": mean(error),
                "max": value(np.max(np.abs(error))),
                "normalized_mae": mean(np.abs(pn[k, i] - rn[k, i])),
                "correlation": value(np.corrcoef(p[k, i], r[k, i])[0, 1]),
                "token_accuracy": mean(pt[k, i] == rt[k, i]),
                "bin_distance": mean(distance[k, i]),
                "bin_distance_max": int(distance[k, i].max()),
            }
        )
    k = known[:, 6]
    predicted_open, recorded_open = p[k, 6] > THRESHOLD, r[k, 6] > THRESHOLD
    tp, fp = (
        int((predicted_open & recorded_open).sum()),
        int((predicted_open & ~recorded_open).sum()),
    )
    fn, tn = (
        int((~predicted_open & recorded_open).sum()),
        int((~predicted_open & ~recorded_open).sum()),
    )
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    metrics = {
        "frames": len(p),
        "dimensions": dimensions,
        "normalized_mae": mean(np.abs(pn - rn)[known]),
        "token_accuracy": mean((pt == rt)[known]),
        "action_accuracy": mean(((pt == rt) | ~known).all(1)),
        "bin_distance": mean(distance[known]),
        "gripper": {
            "threshold": THRESHOLD,
            "true_open": tp,
            "false_open": fp,
            "false_closed": fn,
            "true_closed": tn,
            "precision": precision,
            "recall": recall,
            "f1": 2 * precision * recall / (precision + recall),
            "accuracy": (tp + tn) / len(predicted_open),
        },
    }
    times = {
        name: {
            "n": len(x),
            "mean": float(np.mean(x)),
            "max": float(np.max(x)),
            **{f"p{q}": float(np.percentile(x, q)) for q in (50, 90, 95, 99)},
        }
        for name, x in latency.items()
    }
    # Bin edges, the floats next to them, and values outside -1..1, for the tokenizer alone.
    probes = np.concatenate(
        [
            BINS,
            np.nextafter(BINS, -2),
            np.nextafter(BINS, 2),
            CENTRES,
            [-7, 7],
            rng.uniform(-1.1, 1.1, 300),
        ]
    )
    physical = rng.uniform(Q01 - 0.02, Q99 + 0.02, (40, 7))
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "pairs.json").write_text(json.dumps(pairs) + "\n")
    (OUT / "expected.json").write_text(
        json.dumps(
            {
                "metrics": metrics,
                "latency_ms": times,
                "end": END,
                "q01": Q01.tolist(),
                "q99": Q99.tolist(),
                "mask": MASK.tolist(),
                "probes": probes.tolist(),
                "probe_tokens": tokens_of(probes).tolist(),
                "physical": physical.tolist(),
                "physical_normalized": normalize(physical).tolist(),
                "physical_tokens": tokens_of(normalize(physical)).tolist(),
            }
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
