"""Results as Markdown, ratios first, and their places in the README files."""

import os

from .system import Failed

BEGIN, END = "<!-- compare:begin -->", "<!-- compare:end -->"


def number(value, digits=1):
    return "–" if value is None else f"{value:,.{digits}f}"


def held(value, most, digits=2):
    """A ratio and whether it keeps its target."""
    if value is None:
        return "–"
    verdict = "kept" if value <= most else f"missed by {100 * (value / most - 1):.0f} %"
    return f"{value:.{digits}f} (≤ {most}: {verdict})"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def peers(found):
    rows, lines = found["rows"], []
    targets = {("plain", "mosquitto"): 1.2, ("plain", "rabbitmq"): 0.25, ("psk", "mosquitto"): 1.25}
    for kind in ("plain", "psk"):
        ours = rows.get(f"gateway {kind}", {}).get("us_per_message")
        for peer in ("mosquitto", "rabbitmq"):
            theirs = rows.get(f"{peer} {kind}", {}).get("us_per_message")
            if ours and theirs:
                most = targets[kind, peer]
                lines.append([f"gateway ÷ {peer}, {kind}", held(ours / theirs, most)])
    acknowledged = {"gateway": "after the hub accepted", "mosquitto": "at once, no upstream",
                    "rabbitmq": "once a queue has it"}
    detail = [[name, number(row["us_per_message"]), number(row["messages_per_s"], 0),
               number(row["p50_ms"], 2), number(row["p99_ms"], 2), acknowledged[name.split()[0]]]
              for name, row in rows.items()]
    ratios = [table(["ratio", "CPU per message"], lines)] if lines else []
    return "\n\n".join([
        f"CPU per QoS 1 message, 256 B, {found['devices']} devices, window 1:",
        *ratios,
        table(["server", "µs CPU per message", "messages/s", "p50 ms", "p99 ms", "PUBACK"],
              detail)])


def scale(found):
    detail = [[f"{int(name):,}", number(row["us_per_message"]), number(row["p99_ms"], 2)]
              for name, row in found["rows"].items()]
    return "\n\n".join([
        f"CPU per message with many ÷ with few devices, PSK, {found['rate']:,} messages/s in all: "
        f"**{held(found['ratio'], 1.3)}**",
        table(["devices", "µs CPU per message", "p99 ms"], detail)])


def idle(found):
    targets = {"gateway, no links": 15, "gateway, both links": 18}
    detail = []
    for name, row in found["rows"].items():
        kib = row["kib_per_device"]
        memory = held(kib, targets[name], 1) if name in targets else number(kib)
        cpu = row["cpu_percent"]
        cpu = held(cpu, 5, 1) if name == "gateway, no links" else number(cpu)
        detail.append([name, memory, cpu])
    return "\n\n".join([
        f"{found['devices']:,} idle PSK devices, keep-alive 60 s:",
        table(["server", "resident KiB per device", "CPU, % of one core"], detail)])


def storm(found):
    detail = [[name, number(row["us_per_connect"]), number(row["connects_per_s"], 0),
               number(row["p99_ms"], 0), str(row["refused_or_lost"])]
              for name, row in found["rows"].items()]
    return "\n\n".join([
        f"{found['devices']:,} PSK devices connect at once, 256 handshakes under way; CPU per "
        f"connect, gateway ÷ bare handshake: **{held(found['ratio'], 1.6)}**",
        table(["server", "µs CPU per connect", "connects/s", "p99 ms", "refused or lost"],
              detail)])


def renewal(found):
    detail = [[name, number(row["p50_ms"], 2), number(row["p99_ms"], 2),
               number(row["us_per_message"])] for name, row in found["rows"].items()]
    return "\n\n".join([
        f"Token renewed every 4 s ÷ not at all, p99 at {found['rate']:,} messages/s: "
        f"**{held(found['ratio'], 1.05)}**",
        table(["token", "p50 ms", "p99 ms", "µs CPU per message"], detail)])


def ceiling(found):
    detail = [[name, number(row["messages_per_s"], 0), number(row["p99_ms"], 1),
               *(number(row[f"{who}_percent"], 0)
                 for who in ("gateway", "emulator", "load", "machine"))]
              for name, row in found["rows"].items()]
    best = found["rows"][found["best"]]
    shares = {who: best[f"{who}_percent"] or 0 for who in ("gateway", "emulator", "load")}
    most = max(shares, key=shares.get)
    return "\n\n".join([
        f"Ceiling, all processes on all processors, {found['devices']} devices: "
        f"**{number(best['messages_per_s'], 0)} messages/s** ({found['best']}; the goal is "
        f"150,000); the machine is "
        f"{number(best['machine_percent'], 0)} % busy, the most of it is the {most}'s.",
        table(["run", "messages/s", "p99 ms", "gateway % of a core", "emulator %", "load %",
               "machine %"], detail)])


def unpinned(found):
    detail = [[name, number(row["us_per_message"]), number(row["messages_per_s"], 0),
               number(row["p99_ms"], 2)] for name, row in found["rows"].items()]
    return "\n\n".join([
        f"CPU per QoS 1 message, 256 B, {found['devices']} PSK devices, window 1, all processors "
        f"for everybody, gateway ÷ Mosquitto: **{held(found['ratio'], 1.35)}**",
        table(["server", "µs CPU per message", "messages/s", "p99 ms"], detail)])


def links(found):
    detail = [[name, held(row["us_per_link"], 20, 1)] for name, row in found["rows"].items()]
    return "\n\n".join([
        f"A link attached, {found['devices']:,} PSK devices:",
        table(["link", "µs CPU"], detail)])


def far(found):
    return (f"{found['links']:,} links attached anew over a line of 30 ms each way, from the cut "
            f"to the last link: **{held(found['seconds'], 3)} s**")


def commands(found):
    detail = [[name, number(row["us_per_message"])] for name, row in found["rows"].items()]
    return "\n\n".join([
        f"A command, hub → device → accepted, ÷ a message, CPU, {found['devices']} PSK devices, "
        f"{found['rate']:,} a second: **{held(found['ratio'], 1.3)}**",
        table(["what", "µs CPU each"], detail)])


ALL = {"peers": peers, "unpinned": unpinned, "scale": scale, "idle": idle, "storm": storm,
       "renewal": renewal, "links": links, "far": far, "commands": commands, "ceiling": ceiling}


def render(results):
    """Everything measured so far, each part with where it comes from."""
    parts = []
    for name, draw in ALL.items():
        if name not in results:
            continue
        found, origin = results[name]["found"], results[name]["origin"]
        part = draw(found)
        for note in found.get("notes", []):
            part += f"\n\n{note[:1].upper()}{note[1:]}."
        part += (f"\n\n*{origin['date']}, commit {origin['commit']}, {origin['machine']}; "
                 f"medians of {origin['repeat']}, {origin['pinned']}"
                 f"{'' if origin.get('built_here') else '; NOT a release build of this script'}.*")
        parts.append(part)
    return "\n\n".join(parts)


def summary(results):
    """What the front page shows: the ratios of CPU, and memory."""
    shown = [ALL[name](results[name]["found"]).split("\n\n")[1]
             for name in ("peers", "idle") if name in results]
    return "\n\n".join(shown)


def into_readme(path, text):
    """Replaces what stands between the markers."""
    readme = open(path).read()
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise Failed(f"{path}: needs {BEGIN} and {END} once each")
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    fresh = f"{path}.new"
    with open(fresh, "w") as file:
        file.write(f"{before}{BEGIN}\n{text}\n{END}{after}")
    os.replace(fresh, path)
