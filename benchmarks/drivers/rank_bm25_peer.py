"""Runs in the environment of rank-bm25: ranks documents for questions as its own page shows it, and tells how long each took.

Reads `{documents: [text], questions: [text], rounds}` from standard input; writes `{first: [place], score: [score], seconds: [...]}`.
"""

from __future__ import annotations

import json
import sys
import time

from rank_bm25 import BM25Okapi  # type: ignore[import-not-found]


def main() -> None:
    given = json.load(sys.stdin)
    bm25 = BM25Okapi([text.lower().split(" ") for text in given["documents"]])
    first, score, seconds = [], [], []
    for _ in range(given["rounds"]):
        for question in given["questions"]:
            began = time.perf_counter()
            scores = bm25.get_scores(question.lower().split(" "))
            best = int(scores.argmax())
            seconds.append(time.perf_counter() - began)
            first.append(best)
            score.append(float(scores[best]))
    json.dump({"first": first, "score": score, "seconds": seconds}, sys.stdout)


if __name__ == "__main__":
    main()
