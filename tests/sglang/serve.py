"""Runs in SGLang's interpreter: answer prompts with an engine and write down what it reports.

    python serve.py <request.json> <answers.json>

The request: arguments of the engine, prompts as token ids, and how many tokens to answer.
"""

import json
import sys
from pathlib import Path


def main() -> None:
    import sglang

    request = json.loads(Path(sys.argv[1]).read_text())
    engine = sglang.Engine(**request["engine"])
    sampling = {"max_new_tokens": request["new"], "temperature": 0, "ignore_eos": True}
    result = engine.generate(input_ids=request["prompts"], sampling_params=sampling)
    kept = [{"tokens": one["output_ids"], **one["meta_info"]} for one in result]
    Path(sys.argv[2]).write_text(json.dumps(kept, default=str))
    engine.shutdown()


if __name__ == "__main__":
    main()
