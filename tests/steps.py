"""Steps of a method as a training takes them, and without what one process cannot see."""

from waiting import NothingWaits

from lanit import collectives
from lanit.training import step


def take_step(method, *parts):
    """Take the updates of one step over the parts of this process; the terms, summed over parts and processes."""
    return {name: collectives.all_reduce_sum(term) for name, term in step.take_step(method, parts).items()}


def take_step_without_waiting(method, *parts):
    """Take the updates of one step, in which nothing makes the host wait for the device; optimisers apart."""
    updates = method.updates(parts)
    while True:
        with NothingWaits():
            update = next(updates, None)
            if update is None:
                return
            parameters = [p for name in update.networks for p in method.networks[name].parameters()]
            for i in range(len(parts)):
                loss, _ = update.loss(i)
                loss.backward(inputs=[*parameters, *update.leaves])
            update.finish()
        for name in update.networks:
            method.optimisers()[name].step()
