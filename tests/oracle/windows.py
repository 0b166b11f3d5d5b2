#!/usr/bin/env python3
"""What must come out of a CSV file of readings: every window of every metric, computed without Tidewatch.

usage: windows.py FILE --device COLUMN --time COLUMN --window SECONDS [--window SECONDS ...]
                  [--messages FOLDER]

Prints one JSON object a line for each (window length, metric, window), metric "*" being all of them
together: {"window_seconds", "metric", "start", "count", "sum", "mean", "min", "max", "distinct_devices"}.
The time column holds Unix seconds. Cells are numbers, true or false (1 and 0), or texts, which count but
have no number; an empty cell is no reading.

Sums are those that DESIGN.md promises: each value rounded once to a multiple of 2^-48, halves away from
zero, then added as whole numbers. That they are the true sums up to this rounding is checked here in
exact arithmetic.

--messages writes the readings as the plain JSON that devices send, one file per device, one message a row.
"""

import argparse
import csv
import json
import os
import sys
from datetime import datetime, timedelta, timezone
from decimal import ROUND_FLOOR, Decimal

BITS = 48
FINEST = 1074
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MICRO = 1_000_000


def micros(text):
    """Unix seconds in microseconds; what is finer is cut."""
    return int((Decimal(text) * MICRO).to_integral_value(rounding=ROUND_FLOOR))


def rfc3339(at, digits):
    """Microseconds since 1970 as RFC 3339 with 0 or 6 digits of a second."""
    time = EPOCH + timedelta(microseconds=at)
    return time.strftime("%Y-%m-%dT%H:%M:%S" + (".%f" if digits else "") + "Z")


def read(cell):
    """The value of a cell: None, a bool, a float or a str."""
    cell = cell.strip()
    if cell == "":
        return None
    if cell.lower() in ("true", "false"):
        return cell.lower() == "true"
    try:
        return float(cell)
    except ValueError:
        return cell


def exact(number):
    """The double in units of 2^-1074, of which every double is a whole number."""
    numerator, denominator = number.as_integer_ratio()
    return numerator << (FINEST - denominator.bit_length() + 1)


def fixed(whole):
    """Units of 2^-1074 rounded to units of 2^-48, halves away from zero."""
    shift = FINEST - BITS
    units = (abs(whole) + (1 << (shift - 1))) >> shift
    return -units if whole < 0 else units


class Window:
    def __init__(self):
        self.count = 0
        self.numbers = 0
        self.units = 0
        self.exact = 0
        self.min = None
        self.max = None
        self.devices = set()

    def add(self, device, value):
        self.count += 1
        self.devices.add(device)
        if isinstance(value, str):
            return
        number = float(value)
        self.numbers += 1
        whole = exact(number)
        self.units += fixed(whole)
        self.exact += whole
        self.min = number if self.min is None else min(self.min, number)
        self.max = number if self.max is None else max(self.max, number)

    def row(self):
        off = abs((self.units << (FINEST - BITS)) - self.exact)
        assert off <= self.numbers << (FINEST - BITS - 1), "the fixed-point sum is off"
        some = self.numbers > 0
        total = float(self.units) / 2**BITS
        return {
            "count": self.count,
            "sum": total if some else None,
            "mean": total / self.numbers if some else None,
            "min": self.min,
            "max": self.max,
            "distinct_devices": len(self.devices),
        }


def main():
    options = argparse.ArgumentParser()
    options.add_argument("file")
    options.add_argument("--device", required=True)
    options.add_argument("--time", required=True)
    options.add_argument("--window", type=int, action="append", required=True)
    options.add_argument("--messages")
    options = options.parse_args()

    windows = {}
    messages = {}
    with open(options.file, newline="", encoding="utf-8") as file:
        for record in csv.DictReader(file):
            device = record.pop(options.device)
            at = micros(record.pop(options.time))
            values = {name: read(cell) for name, cell in record.items()}
            values = {name: value for name, value in values.items() if value is not None}
            for metric, value in values.items():
                for length in options.window:
                    start = at // (length * MICRO) * length * MICRO
                    for name in (metric, "*"):
                        key = (length, start, name)
                        windows.setdefault(key, Window()).add(device, value)
            if options.messages and values:
                message = {"ts": rfc3339(at, 6), "values": values}
                messages.setdefault(device, []).append(json.dumps(message))

    for (length, start, metric), window in sorted(windows.items()):
        head = {"window_seconds": length, "metric": metric, "start": rfc3339(start, 0)}
        print(json.dumps(head | window.row()))
    for device, lines in messages.items():
        with open(os.path.join(options.messages, device), "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
