"""Gradient accumulation: a training step that computes its batch in parts, with the same gradients in less memory.

The cross-entropy is a mean over the weighted pixels of the batch, so each part counts by its share of their weight.
Only batch norms differ, and the Lovász loss, which each part has of its own images. Part i of n has the images i,
i + n, i + 2n, ..., so it has some images of every device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

TotalWeight = Callable[[Any], Any]
"""A function from the labels of a batch, [B, H, W], to its weight in the mean, over all devices."""


def in_parts(network: keras.Model, parts: int, total_weight: TotalWeight) -> keras.Model:
    """A model that shares the network's layers and is trained in `parts` parts per step."""
    kind = _OnJax if keras.backend.backend() == "jax" else _OnTensorFlow
    model = kind(network.inputs, network.outputs, name=network.name)
    model.parts, model.total_weight = parts, total_weight
    return model


class _Parted(keras.Model):
    def _parts(self, data: tuple[Any, ...]) -> tuple[Any, ...]:
        """Arrays [B, ...] as [B / n, n, ...], which leaves the distribution of the images over devices as it is."""
        return tuple(ops.reshape(x, (x.shape[0] // self.parts, self.parts, *x.shape[1:])) for x in data)

    def _shares(self, labels: Any) -> Any:
        """[n] float32: the weight of each part in the whole, from labels [B / n, n, H, W]."""
        weight = [self.total_weight(labels[:, i]) for i in range(self.parts)]
        return ops.divide_no_nan(ops.stack(weight), sum(weight))


class _OnTensorFlow(_Parted):
    def train_step(self, data: Any) -> dict[str, Any]:
        import tensorflow as tf

        parts = self._parts(data)
        shares = self._shares(parts[1])
        variables = self.trainable_variables

        def add(index: Any, loss: Any, gradients: list[Any]) -> tuple[Any, Any, list[Any]]:
            image, label = (x[:, index] for x in parts)
            with tf.GradientTape() as tape:
                logits = self(image, training=True)
                part = shares[index] * self.compute_loss(x=image, y=label, y_pred=logits)
                scaled = self.optimizer.scale_loss(part)
            part_gradients = tape.gradient(scaled, variables)
            return index + 1, loss + part, [sum(pair) for pair in zip(gradients, part_gradients, strict=True)]

        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        state = (tf.constant(0), tf.constant(0.0), [tf.zeros_like(variable) for variable in variables])
        if replicas == 1:
            _, loss, gradients = tf.while_loop(lambda index, *_: index < self.parts, add, state, parallel_iterations=1)
        else:
            # Communication between devices cannot be in a loop of the graph.
            for _ in range(self.parts):
                with tf.control_dependencies(state[2]):
                    state = add(*state)
            _, loss, gradients = state
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        # Keras averages the values of the devices, although each is a part of a sum.
        self.metrics[0].update_state(loss * replicas, sample_weight=data[0].shape[0])
        return self.get_metrics_result()


class _OnJax(_Parted):
    def train_step(self, state: Any, data: Any) -> tuple[dict[str, Any], Any]:
        import jax

        trainable, other, optimizer, metrics = state
        parts = self._parts(data)
        shares = self._shares(parts[1])
        differentiate = jax.value_and_grad(self.compute_loss_and_updates, has_aux=True)

        def add(carried: Any, index: Any) -> tuple[Any, None]:
            loss, gradients, other = carried
            part = [x[:, index] for x in parts]
            (_, (unscaled, _, other, _)), part_gradients = differentiate(
                trainable, other, metrics, *part, None, training=True, optimizer_variables=optimizer
            )
            share = shares[index]
            gradients = [total + share * one for total, one in zip(gradients, part_gradients, strict=True)]
            return (loss + share * unscaled, gradients, other), None

        begin = (ops.zeros(()), [ops.zeros_like(variable) for variable in trainable], other)
        (loss, gradients, other), _ = jax.lax.scan(add, begin, ops.arange(self.parts))
        trainable, optimizer = self.optimizer.stateless_apply(optimizer, gradients, trainable)
        metrics = self.metrics[0].stateless_update_state(metrics, loss, sample_weight=data[0].shape[0])
        logs = {self.metrics[0].name: self.metrics[0].stateless_result(metrics)}
        return logs, (trainable, other, optimizer, metrics)
