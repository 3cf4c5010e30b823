"""Make the files next to this script with speculators' own code:

    pip install speculators==0.9.0 httpx aiohttp python-dotenv
    PYTHONPATH=. python tests/imports/published/make.py

Its `prepare-data` functions make the dataset, and its `generate-offline-data` asks a server for the
states and files them. Only the server is ours: vLLM's part, the forward pass of a tiny target and
the safetensors file that its connector writes, is played here by transformers.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from eagle3.engines.hf import HFTarget
from tests.builders.models import save_model, save_tokenizer
from tests.builders.peers import captured
from tests.imports.conftest import LAYERS, chat

HERE = Path(__file__).parent
DOCUMENTS = 6


def serve(engine: HFTarget, folder: Path) -> ThreadingHTTPServer:
    """A server that answers as vLLM with a connector of hidden states does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send({"object": "list", "data": [{"id": "target", "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            ids = np.array(body["prompt"])
            made = captured(engine, 0, ids, ids * 0)
            path = folder / f"{threading.get_ident()}-{len(ids)}-{ids.sum()}.safetensors"
            states = torch.cat([made.aux.unflatten(1, (3, -1)), made.before[:, None]], 1)
            save_file(
                {"token_ids": torch.from_numpy(ids), "hidden_states": states.bfloat16()}, path
            )
            choice = {"index": 0, "text": "", "finish_reason": "length", "logprobs": None}
            choice["prompt_token_ids"] = body["prompt"]
            reply = {"id": "1", "object": "text_completion", "created": 0, "model": "target"}
            parameters = {"hidden_states_path": str(path)}
            self.send({**reply, "choices": [choice], "kv_transfer_params": parameters})

        def send(self, content: dict[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main(out: Path) -> None:
    from datasets import Dataset
    from speculators.cli.generate_offline_data import generate_offline_data
    from speculators.data_generation.preprocessing import build_speculator_training_dataset
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        save_tokenizer(save_model(work / "target", "llama"))
        engine = HFTarget.load(work / "target", LAYERS, "float32")
        rows = []
        for number in range(DOCUMENTS):
            ids, mask = chat(number)
            rows.append({"input_ids": ids.tolist(), "loss_mask": mask.tolist()})
        tokenizer = AutoTokenizer.from_pretrained(work / "target")
        data = build_speculator_training_dataset(
            Dataset.from_list(rows), tokenizer, max_length=256, num_proc=1
        )
        shutil.rmtree(out, ignore_errors=True)
        data.save_to_disk(str(out))
        (work / "staged").mkdir()
        server = serve(engine, work / "staged")
        generate_offline_data(
            endpoint=f"http://127.0.0.1:{server.server_port}/v1",
            preprocessed_data=str(out),
            concurrency=1,
            validate_outputs=True,
            fail_on_error=True,
        )
        server.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "speculators")
