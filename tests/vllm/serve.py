"""Runs in vLLM's interpreter: answer prompts with several engines, one after another, and write
down what each of them reports.

    python serve.py <request.json> <answers.json>

The request: prompts as token ids, how many tokens to answer, and the arguments of each engine by
its name. The answers of an engine that does not start are the fault that it raised.
"""

import gc
import json
import os
import sys
from pathlib import Path

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # vLLM's imports are paid for once


def answers(arguments, prompts, new):
    from vllm import LLM, SamplingParams
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    engine = None
    try:
        engine = LLM(**arguments)
        outputs = engine.generate(
            [{"prompt_token_ids": ids} for ids in prompts],
            SamplingParams(temperature=0.0, max_tokens=new, ignore_eos=True, detokenize=False),
            use_tqdm=False,
        )
        return [answer_of(output.outputs[0]) for output in outputs]
    except Exception as fault:
        return {"fault": type(fault).__name__, "text": str(fault)}
    finally:
        if engine is not None:
            engine.llm_engine.engine_core.shutdown()
        del engine
        gc.collect()
        cleanup_dist_env_and_memory()


def answer_of(output):
    metrics = output.spec_decode_metrics
    reported = metrics.to_dict() if metrics is not None else {}
    return {
        "tokens": list(output.token_ids),
        "passes": reported.get("num_spec_steps"),
        "histogram": reported.get("acceptance_histogram"),
        "accepted": reported.get("per_step_accepted", []),  # by pass, in their order
    }


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text())
    kept = {
        name: answers(arguments, request["prompts"], request["new"])
        for name, arguments in request["engines"].items()
    }
    Path(sys.argv[2]).write_text(json.dumps(kept))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # without the teardown of engines that did not start
