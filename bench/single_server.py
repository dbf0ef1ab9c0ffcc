"""An experiment: one server and no dealer, for linear models only; `scripts/bench single_server`, JSON on the last line.

The data owner encrypts the features with CKKS (Cheon et al. 2017; TenSEAL over Microsoft SEAL, 128-bit security), the
server multiplies by its weights in clear and returns one ciphertext. The server learns nothing about the image. What
keeps it an experiment: the noise of the answer depends on the weights (it would have to be flooded; Li and Micciancio,
EUROCRYPT 2021), nothing binds the server to the deployed weights, and no layer but a linear one can run.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

from primum.models.feature_map import ScatteringCard
from primum.rng import Stream

REPEATS = 5
SLOTS = 4096
_INSTALLED = Path(__file__).resolve().parent.parent / ".bench" / "single_server"


def install() -> None:
    """TenSEAL, pinned, for this benchmark only."""
    if not (_INSTALLED / "tenseal").is_dir():
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            str(_INSTALLED),
            "tenseal==0.3.18",
        ]
        subprocess.run(command, check=True)
    sys.path.append(str(_INSTALLED))


def main() -> None:
    install()
    import tenseal

    stream = Stream.public("features and weights of the single-server experiment")
    dimension = ScatteringCard(size=64, scales=2).feature_map().dimension
    padded = -(-dimension // SLOTS) * SLOTS
    features, weight = (np.zeros(padded) for _ in range(2))
    features[:dimension] = stream.uniform(dimension)
    weight[:dimension] = stream.uniform(dimension) - 0.5
    features /= np.linalg.norm(features)
    weight *= 6 / np.linalg.norm(weight)

    secret = tenseal.context(tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=8192, coeff_mod_bit_sizes=[60, 40, 60])
    secret.global_scale = 2**40
    secret.generate_galois_keys()
    public = secret.copy()
    public.make_context_public()
    seconds, errors, sent, back = [], [], 0, 0
    for _ in range(REPEATS):
        began = time.perf_counter()
        parts = [
            tenseal.ckks_vector(secret, features[start : start + SLOTS]).serialize()
            for start in range(0, padded, SLOTS)
        ]
        total = None
        for place, part in enumerate(parts):
            row = weight[place * SLOTS : (place + 1) * SLOTS].tolist()
            product = tenseal.ckks_vector_from(public, part) * row
            total = product if total is None else total + product
        answer = total.sum().serialize()
        logit = tenseal.ckks_vector_from(secret, answer).decrypt()[0]
        seconds.append(time.perf_counter() - began)
        errors.append(abs(logit - float(features @ weight)))
        sent, back = sum(map(len, parts)), len(answer)
    result = {
        "single_server_ms": 1e3 * median(seconds),
        "single_server_error": max(errors),
        "sent_mb": sent / 1e6,
        "answer_mb": back / 1e6,
        "keys_once_mb": len(public.serialize(save_galois_keys=True)) / 1e6,
    }
    print(json.dumps({name: float(f"{value:.4g}") for name, value in result.items()}))


if __name__ == "__main__":
    main()
