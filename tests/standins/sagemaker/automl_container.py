"""What AutoML jobs for text generation train and serve here, in place of a language model.

`python automl_container.py train` reads the channels `training` and `validation` (columns `input` and
`output`) and leaves naive Bayes over the words of the input; `… serve` answers
`{"inputs": …, "parameters": {…}}` with the likeliest output of the training rows. It imports nothing
of this package: it is copied into jobs and into models.
"""

import json
import math
import os
import re
import shutil
import sys
import time
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Row = tuple[str, str]


class Answerer:
    """Naive Bayes: how often outputs occur, and words of the input beside each of them."""

    def __init__(self, outputs: dict[str, int], words: dict[str, dict[str, int]]) -> None:
        self.outputs = outputs
        self.words = words
        self.rows = sum(outputs.values())
        self.vocabulary = len({word for counts in words.values() for word in counts})
        self.totals = {output: sum(counts.values()) for output, counts in words.items()}

    @classmethod
    def fit(cls, rows: list[Row]) -> "Answerer":
        words: dict[str, Counter[str]] = defaultdict(Counter)
        for text, output in rows:
            words[output].update(words_of(text))
        outputs = Counter(output for _, output in rows)
        return cls(dict(outputs), {output: dict(counts) for output, counts in words.items()})

    def log_probabilities(self, text: str) -> dict[str, float]:
        scores = {}
        for output, count in self.outputs.items():
            counts = self.words.get(output, {})
            size = self.totals.get(output, 0) + self.vocabulary + 1
            scores[output] = math.log(count / self.rows) + sum(
                math.log((counts.get(word, 0) + 1) / size) for word in words_of(text)
            )
        highest = max(scores.values())
        total = math.log(sum(math.exp(score - highest) for score in scores.values())) + highest
        return {output: score - total for output, score in scores.items()}

    def answer(self, text: str) -> str:
        scores = self.log_probabilities(text)
        return max(sorted(scores), key=scores.__getitem__)

    def loss(self, rows: list[Row]) -> float:
        losses = [-self.log_probabilities(text).get(output, -12.0) for text, output in rows]
        return sum(losses) / len(losses)


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def read(folder: Path) -> list[Row]:
    import pyarrow.csv
    import pyarrow.parquet

    rows: list[Row] = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            is_csv = path.suffix == ".csv"
            table = (pyarrow.csv.read_csv if is_csv else pyarrow.parquet.read_table)(path)
            rows += zip(table["input"].to_pylist(), table["output"].to_pylist(), strict=True)
    return rows


def train(base: Path) -> None:
    training = read(base / "input" / "data" / "training")
    validation = base / "input" / "data" / "validation"
    held_out = read(validation) if validation.is_dir() else training[-max(1, len(training) // 5) :]
    print(f"{len(training)} training rows, {len(held_out)} validation rows", flush=True)
    hold = os.environ.get("AUTOML_HOLD")
    while hold and Path(hold).exists():
        time.sleep(0.05)
    model = Answerer.fit(training)
    loss = model.loss(held_out)
    right = sum(model.answer(text) == output for text, output in held_out) / len(held_out)
    print(f"train_loss={model.loss(training):.6f}")
    print(f"eval_loss={loss:.6f}")
    print(f"perplexity={math.exp(loss):.6f}")
    print(f"rouge1={right:.6f}", flush=True)
    folder = base / "model"
    (folder / "code").mkdir(parents=True, exist_ok=True)
    (folder / "answerer.json").write_text(json.dumps([model.outputs, model.words]))
    shutil.copyfile(__file__, folder / "code" / "serve.py")


def serve(base: Path, port: int) -> None:
    model = Answerer(*json.loads((base / "model" / "answerer.json").read_text()))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200 if self.path == "/ping" else 404, b"")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                request = json.loads(body)
                text = request["inputs"]
                assert request["parameters"]["max_new_tokens"] > 0
            except (ValueError, KeyError, TypeError, AssertionError) as error:
                self._send(422, json.dumps({"error": repr(error)}).encode())
                return
            answer = model.answer(text)
            self._send(200, json.dumps([{"generated_text": f"{text} {answer}\n"}]).encode())

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    place = Path(os.environ["SAGEMAKER_BASE_DIR"])
    if sys.argv[1] == "train":
        train(place)
    else:
        serve(place, int(os.environ["SAGEMAKER_BIND_TO_PORT"]))
