"""A hook that sends a signal at a chosen moment, for the tests of faults."""

import multiprocessing
import os
import signal
import subprocess
import time

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class SendSignal(Hook):
    """Sends a signal while a step is trained, or in a validation.

    Args:
        name: Of the signal.
        to: 'self', 'group' (the workers, too), 'worker' or 'parent'.
        step: The step before which it is sent, counted from 1.
        validation: Whether it is sent in the validation after that step.
        rank: The process that sends it.
    """

    def __init__(self, name, to, step, validation=False, rank=0):
        self.signal = getattr(signal, name)
        self.to = to
        self.step = step
        self.validation = validation
        self.rank = rank

    def before_train_iter(self, runner, *args, **kwargs):
        if runner.iter + 1 == self.step and not self.validation:
            self.send()

    def before_val_iter(self, runner, *args, **kwargs):
        if runner.iter == self.step and self.validation:
            self.send()

    def send(self):
        if get_rank() != self.rank:
            return
        if self.to == 'group':
            self.send_to_group()
        elif self.to == 'parent':
            self.send_to_parent()
        elif self.to == 'worker':
            worker = multiprocessing.active_children()[0]
            os.kill(worker.pid, self.signal)
            # Its end is told here, and not at some later moment.
            os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
        else:
            os.kill(os.getpid(), self.signal)

    def send_to_group(self):
        """Sends it as a scheduler does, and sees whether workers live.

        From a process of its own: a signal of their parent ends workers.
        """
        subprocess.run(
            ['kill', f'-{self.signal.value}', '--', f'-{os.getpgid(0)}'],
            start_new_session=True,
            check=True,
        )
        for worker in multiprocessing.active_children():
            worker.join(0.5)
            assert worker.is_alive(), 'a data worker died of the signal'

    def send_to_parent(self):
        """Sends it to the launcher, and waits until it passes it on."""
        handler = signal.getsignal(self.signal)
        arrived = []

        def note(*args):
            arrived.append(args)
            handler(*args)

        signal.signal(self.signal, note)
        os.kill(os.getppid(), self.signal)
        while not arrived:
            time.sleep(0.01)
