"""Times pythae, in an environment of its own that has it: speed.py calls this.

    python pythae_reference.py train FOLDER BATCH LATENT
    python pythae_reference.py nll FOLDER IMAGES SAMPLES LATENT

FOLDER holds x.npy, uint8 rows. Prints the seconds of the second epoch, or of `get_nll`.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback


class Clock(TrainingCallback):
    """Seconds of each epoch."""

    def __init__(self):
        self.seconds = []

    def on_epoch_begin(self, training_config, **kwargs):
        self.start = time.perf_counter()

    def on_train_step_end(self, training_config, **kwargs):
        self.last = time.perf_counter()

    def on_epoch_end(self, training_config, **kwargs):
        self.seconds.append(self.last - self.start)


class Quiet(BaseTrainer):
    """Without the progress bar that it adds to the callbacks given to it."""

    def _setup_callbacks(self):
        self.callback_handler = CallbackHandler(self.callbacks, self.model)


def model(x, latent):
    config = VAEConfig(input_dim=tuple(x.shape[1:]), latent_dim=latent, reconstruction_loss="bce")
    return VAE(config)  # its default networks: one hidden layer of 512, both ways


def train(folder, batch, latent):
    x = torch.from_numpy(np.load(folder / "x.npy")).float() / 255
    config = BaseTrainerConfig(
        output_dir=str(folder / "out"),
        num_epochs=2,
        per_device_train_batch_size=batch,
        learning_rate=1e-3,
        no_cuda=True,
    )
    clock = Clock()
    trainer = Quiet(model(x, latent), BaseDataset(x, torch.zeros(len(x))), None, config, [clock])
    trainer.train()
    return clock.seconds[-1]


def nll(folder, images, samples, latent):
    x = torch.from_numpy(np.load(folder / "x.npy")[:images]).float() / 255
    start = time.perf_counter()
    with torch.no_grad():  # which it lacks, and with which it is faster
        model(x, latent).get_nll(x, n_samples=samples)
    return time.perf_counter() - start


if __name__ == "__main__":
    command, folder, *numbers = sys.argv[1:]
    seconds = {"train": train, "nll": nll}[command](Path(folder), *map(int, numbers))
    print(seconds)
