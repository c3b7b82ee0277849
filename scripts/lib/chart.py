"""The chart of `scripts/bench --peers`: rows a second, CPU seconds and memory, a bar for each tool."""

WIDTH, BAR, LEFT, PANEL = 900, 26, 215, 215
OURS, OTHERS, SERVERS = "#2f6fb5", "#8894a0", "#d5dae0"


def svg(tools, rows):
    """`tools` has each tool's name and figures. It is white of its own, so that a dark page shows it, too."""
    height = 62 + BAR * len(tools)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13" role="img">',
        f"<title>{rows:,} rows from PostgreSQL to ClickHouse, by tool</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/><g fill="#1c2733">',
    ]
    for number, name in enumerate(tools):
        weight = "" if number else ' font-weight="bold"'
        parts.append(f'<text x="10" y="{55 + BAR * number}"{weight}>{name}</text>')
    panels = [("rows a second", ["rate"], ",.0f"), ("CPU seconds: tool + servers", ["cpu", "servers"], ".1f"), ("peak memory, MiB", ["mib"], ",.0f")]
    for place, (title, keys, form) in enumerate(panels):
        parts += panel(LEFT + (PANEL + 15) * place, title, [[figures[key] for key in keys] for figures in tools.values()], form)
    return "\n".join([*parts, "</g></svg>", ""])


def panel(left, title, bars, form):
    """A bar for each, of one piece or two, and what they come to."""
    scale = (PANEL - 60) / max(map(sum, bars))
    yield f'<text x="{left}" y="24" font-weight="bold">{title}</text>'
    for number, pieces in enumerate(bars):
        top, x = 40 + BAR * number, left
        for piece, colour in zip(pieces, (OTHERS if number else OURS, SERVERS)):
            yield f'<rect x="{x:.1f}" y="{top}" width="{piece * scale:.1f}" height="{BAR - 8}" fill="{colour}"/>'
            x += piece * scale
        yield f'<text x="{x + 5:.1f}" y="{top + 15}">{sum(pieces):{form}}</text>'
