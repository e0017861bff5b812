#!/usr/bin/env python3
"""Draws how a store grew: JSON lines of `mailstrata-benches scale` in, one SVG with four panels out. No libraries.

    draw.py scale.jsonl [more.jsonl …] > scale.svg      # several runs share the panels, the largest is drawn last
"""
import json
import sys

W, H, PAD_L, PAD_T, GAP_X, GAP_Y = 330, 150, 62, 44, 84, 66
COLORS = ["#b7c9e2", "#7fa3cf", "#3d74b3", "#123f73"]
PANELS = [
    ("ingest rate, 1000 transactions/s", lambda g: g["rate"] / 1e3),
    ("resident memory while writing, MiB", lambda g: g["rss"] / 2**20),
    ("bytes on disk, GB", lambda g: g["bytes"] / 1e9),
    ("files", lambda g: g["files"]),
]


def nice(top):
    """The least of 1, 2, 2.5, 5 · 10ⁿ of which at most five steps reach `top`."""
    step = 1e-9
    while True:
        for m in (1, 2, 2.5, 5):
            if step * m * 5 >= top:
                return step * m
        step *= 10


def text(x, y, s, anchor="start", size=11, color="#333"):
    s = str(s).replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{color}">{s}</text>'


def label(v):
    return f"{v:.10g}"


def panel(x0, y0, title, value, runs):
    top = max((value(g) for growth in runs for g in growth), default=0) or 1
    right = max(g["transactions"] for growth in runs for g in growth) / 1e6
    step, step_x = nice(top), nice(right)
    top = step * -(-top // step)
    sx, sy = (lambda t: x0 + t / 1e6 / right * W), (lambda v: y0 + H - v / top * H)
    out = [text(x0 - 40, y0 - 14, title, size=12)]
    v = 0
    while v <= top * 1.0001:
        out.append(f'<line x1="{x0}" x2="{x0 + W}" y1="{sy(v):.1f}" y2="{sy(v):.1f}" stroke="#ddd"/>')
        out.append(text(x0 - 6, sy(v) + 4, label(v), "end"))
        v += step
    t = 0
    while t <= right * 1.0001:
        out.append(text(sx(t * 1e6), y0 + H + 16, label(t), "middle"))
        t += step_x
    for i, growth in enumerate(runs):
        color = COLORS[-1] if i == len(runs) - 1 else COLORS[min(i, 2)]
        points = " ".join(f'{sx(g["transactions"]):.1f},{sy(value(g)):.1f}' for g in growth)
        out.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.8"/>')
    return out


def main():
    runs = []
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as f:
            lines = [json.loads(line) for line in f if line.strip()]
        growth = [g for g in lines if g["stage"] == "growth"]
        if growth:
            runs.append(growth)
    if not runs:
        sys.exit(__doc__)
    runs.sort(key=lambda growth: growth[-1]["transactions"])
    width, height = PAD_L + 2 * W + GAP_X + 20, PAD_T + 2 * H + GAP_Y + 48
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">']
    out.append('<rect width="100%" height="100%" fill="white"/>')
    for i, (title, value) in enumerate(PANELS):
        out += panel(PAD_L + i % 2 * (W + GAP_X), PAD_T + i // 2 * (H + GAP_Y), title, value, runs)
    out.append(text(width / 2, height - 8, "transactions written, millions", "middle", 12))
    print("\n".join(out + ["</svg>"]))


if __name__ == "__main__":
    main()
