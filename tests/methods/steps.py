"""Steps of a method as a training takes them, without a training."""

from lanit import ranks


def take_step(method, *parts):
    """Take the updates of one step over the parts of this process; the terms, summed over parts and processes."""
    report = {}
    for update in method.updates(parts):
        parameters = [parameter for name in update.networks for parameter in method.networks[name].parameters()]
        for parameter in parameters:
            parameter.grad = None
        for i in range(len(parts)):
            total, terms = update.loss(i)
            total.backward(inputs=[*parameters, *update.leaves])
            for name, term in terms.items():
                report[name] = report.get(name, 0) + term
        update.finish()
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad = ranks.total(parameter.grad)
        for name in update.networks:
            method.optimisers()[name].step()
    return {name: ranks.total(term) for name, term in report.items()}
