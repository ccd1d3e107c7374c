"""Trains for a long time and watches memory, file handles and speed (Linux).

    python3 docs/checks/soak.py MINUTES target/release/xtask finetune --model DIR --data FILE --out NEW-DIR ...

The run needs more --steps than it can do; it is interrupted at the end, which must save and exit with 130. The first tenth of the
time is warm-up. Fails when resident memory ends more than 1 % above its level after warm-up, when handles grew, or when the last
minute was more than 3 % slower than the first one after warm-up.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time

minutes, command = float(sys.argv[1]), sys.argv[2:]
out = command[command.index("--out") + 1]
run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
begin, samples = time.time(), []
while time.time() - begin < 60 * minutes:
    time.sleep(5)
    assert run.poll() is None, f"the run ended with {run.returncode}"
    with open(f"/proc/{run.pid}/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    resident = int(fields["VmRSS"].split()[0])
    samples.append((time.time() - begin, resident, len(os.listdir(f"/proc/{run.pid}/fd"))))
run.send_signal(signal.SIGINT)
assert run.wait() == 130, run.returncode

with open(os.path.join(out, "metrics.jsonl")) as lines:
    steps = [event for event in map(json.loads, lines) if event["event"] == "step"]
clock, ends = 0.0, []
for step in steps:
    clock += step["seconds"]
    ends.append((clock, step["seconds"]))
warm = 6 * minutes
first = [seconds for end, seconds in ends if clock * 0.1 <= end < clock * 0.1 + 60]
last = [seconds for end, seconds in ends if end >= clock - 60]
rest = [sample for sample in samples if sample[0] >= warm]
tenth = max(1, len(rest) // 10)
memory = [statistics.median(sample[1] for sample in part) for part in (rest[:tenth], rest[-tenth:])]
handles = [max(sample[2] for sample in part) for part in (rest[:tenth], rest[-tenth:])]
speed = [1 / statistics.median(part) for part in (first, last)]
print(f"{len(steps)} steps in {minutes} minutes; resident memory {memory[0] / 1024:.2f} -> {memory[1] / 1024:.2f} MiB "
      f"({100 * (memory[1] / memory[0] - 1):+.2f} %), handles {handles[0]} -> {handles[1]}, "
      f"steps a second {speed[0]:.2f} -> {speed[1]:.2f} ({100 * (speed[1] / speed[0] - 1):+.2f} %)")
assert memory[1] <= 1.01 * memory[0] and handles[1] <= handles[0] and speed[1] >= 0.97 * speed[0]
