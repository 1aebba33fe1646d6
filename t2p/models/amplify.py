"""AMPLIFY's motion tokenizer and forward dynamics (Collins et al. 2025, sections 3.1 and 3.2).

The defaults are the released code's; fields say where the paper differs. Coordinates and velocities are (row, column)
in [-1, 1] of the image, see t2p.geometry.conventions.to_amplify.

Letters: b batch, v views, t time steps (one less than the track has), n points, l codes, d channels, p image tokens,
c classes of a motion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from t2p.io import UserError
from t2p.models.fsq import FSQ, codebook_size
from t2p.models.gpt import Decoder, Encoder
from t2p.models.layers import Array, Dtype, Linear, uniform_by_fan_in, without_cudnn

Error = Callable[[Array, Array], Array]

MASKS = ("causal", "none", "diagonal")
DECODERS = ("steps", "points")
OUTPUTS = ("classes", "coordinates", "velocities")


def attention_mask(kind: str, length: int) -> np.ndarray:
    """[length, length] bool: each step sees those up to its own, all, or only itself."""
    if kind not in MASKS:
        raise UserError(f"the encoder's mask is {kind!r}; expected one of {', '.join(MASKS)}")
    full = np.ones((length, length), bool)
    return np.tril(full) if kind == "causal" else full if kind == "none" else np.eye(length, dtype=bool)


class MotionTokenizer(nn.Module):
    """Velocities of points -> a short sequence of codes -> motion classes of the points. See the methods.

    `dtype` is the decoder's. All that leads to the codes is float32: half precision before the rounding names another
    code for one in a hundred (benchmarks/amplify_codes.py)."""

    views: int
    points: int
    steps: int  # t
    window: tuple[int, int] = (15, 15)  # rows and columns of motions, in pixels
    levels: tuple[int, ...] = (8, 8, 6, 5)
    dim: int = 768
    depth: int = 2  # of the encoder; the decoder has half of it
    heads: int = 8
    mlp: int = 256
    mask: str = "causal"
    per_view: bool = False  # a code for each view and step (no released configuration)
    latents: int = 0  # codes of an example where not one for each step (paper, Appendix E): so many learned tokens
    images: bool = False  # the encoder looks at the first picture, too (an ablation of both)
    queries: str = "steps"  # of the decoder: steps (released), or points that cross-attend the codes (paper, Sec. 2.2)
    output: str = "classes"  # of motion; or two numbers, for a squared error: see t2p.methods.amplify.tokenizer
    input_scale: float = 1.0  # the encoder sees velocities times this (released: as they are, a pixel is 1/64)
    dropout: float = 0.1
    dtype: Dtype = jnp.float32
    implementation: str = "matmul"
    remat: bool = False
    scan: bool = False

    @property
    def tokens(self) -> int:
        """Motion tokens that the encoder is given."""
        return self.steps * (self.views if self.per_view else 1)

    @property
    def length(self) -> int:
        """l: codes of an example."""
        return self.latents or self.tokens

    @property
    def outputs(self) -> int:
        """c: numbers for the motion of a point in a step."""
        return self.window[0] * self.window[1] if self.output == "classes" else 2

    def setup(self) -> None:
        stack: dict[str, Any] = {"heads": self.heads, "dim": self.dim, "dropout": self.dropout, "dtype": self.dtype}
        stack |= {"implementation": self.implementation, "remat": self.remat, "scan": self.scan}
        exact = stack | {"dtype": jnp.float32, "implementation": without_cudnn(self.implementation)}
        self.input = Linear(self.dim)
        if self.images:
            self.image = Linear(self.dim)
        if self.latents:
            self.latent = self.param("latents", nn.initializers.normal(1.0), (1, self.latents, self.dim))
        kind: Any = Decoder if self.images else Encoder
        self.encoder = kind(depth=self.depth, length=self.tokens + self.latents, **exact)
        self.fsq = FSQ(self.levels, self.dim)
        by_step = self._by_step()
        self.decoder = Decoder(
            depth=self.depth // 2, length=self.tokens if by_step else self.views * self.points, **stack
        )
        if by_step:
            self.tail = PointTail(self.views, self.points, self.outputs, self.mlp, self.dim, self.dtype)
        else:
            self.head = Linear(self.steps * self.outputs, dtype=self.dtype)

    def __call__(
        self, velocities: Array, images: Array | None = None, train: bool = False
    ) -> tuple[Array, Array, dict[str, Array]]:
        """[b, v, t, n, 2] -> logits [b, v, t, n, c] float32, codes [b, l] int32, and the numbers on the way. images: as
        `encode` has them. train: dropout, from the rng "dropout"."""
        embeddings, codes, aux = self.encode(velocities, images, train)
        return self.decode(embeddings, train), codes, aux | {"embeddings": embeddings}

    def encode(
        self, velocities: Array, images: Array | None = None, train: bool = False
    ) -> tuple[Array, Array, dict[str, Array]]:
        """[b, v, t, n, 2] -> embeddings of the codes [b, l, d] float32, codes [b, l] int32, and the numbers before.
        images: [b, p, .] tokens with the views side by side on the last axis, where the model has `images`."""
        self._check(velocities, images)
        b, v, t, n, _ = velocities.shape
        if self.per_view:
            x = velocities.reshape(b, v * t, n * 2)
        else:
            x = velocities.swapaxes(1, 2).reshape(b, t, v * n * 2)
        with jax.default_matmul_precision("highest"):
            z = self._encode(self.input(x * self.input_scale), images, train)
            embeddings, codes, aux = self.fsq(z)
        return embeddings, codes, {"encoded": z, **aux}

    def _encode(self, x: Array, images: Array | None, train: bool) -> Array:
        """[b, tokens, d] -> [b, l, d]; learned latents stand after the motion and see all of it, whatever the mask."""
        if self.latents:
            latents = jnp.broadcast_to(self.latent, (len(x), *self.latent.shape[1:]))
            x = jnp.concatenate([x, latents.astype(x.dtype)], axis=1)
        mask = attention_mask(self.mask, x.shape[1])
        mask[self.tokens :, : self.tokens] = True
        if images is None:
            z, _ = self.encoder(x, jnp.asarray(mask), train)
        else:
            z = self.encoder(x, self.image(images), jnp.asarray(mask), train)
        return z[:, -self.length :]

    def errors(
        self, velocities: Array, error: Error, targets: Array, images: Array | None = None, train: bool = False
    ) -> tuple[Array, Array]:
        """What training needs: the error of each step [b, v, t] and the codes [b, l]. error: of a view's logits
        [b, t, n, c] and its targets [b, ...], to [b, t]; targets: [b, v, ...]. The decoder's tail does one view after
        the other, forward and backward, so that the logits of all views are never there at once."""
        embeddings, codes, _ = self.encode(velocities, images, train)
        x = self._decoded(embeddings, train)
        if self._by_step():
            return self.tail.errors(x.reshape(len(x), -1, self.steps, self.dim), error, targets), codes
        return jax.vmap(error, in_axes=1, out_axes=1)(self._motions(x), targets), codes

    def decode(self, embeddings: Array, train: bool = False) -> Array:
        """[b, l, d] -> logits [b, v, t, n, c] float32."""
        x = self._decoded(embeddings, train)
        return self.tail(x.reshape(len(x), -1, self.steps, self.dim)) if self._by_step() else self._motions(x)

    def _decoded(self, embeddings: Array, train: bool) -> Array:
        queries = jnp.zeros((len(embeddings), self.decoder.length, self.dim))
        return self.decoder(queries, embeddings, train=train)

    def _motions(self, x: Array) -> Array:
        """A token for each point of each view [b, v n, d] -> [b, v, t, n, c] float32."""
        shape = (len(x), self.views, self.points, self.steps, self.outputs)
        return self.head(x).reshape(shape).swapaxes(2, 3).astype(jnp.float32)

    def _by_step(self) -> bool:
        if self.queries not in DECODERS:
            raise UserError(f"the decoder's queries are {self.queries!r}; expected one of {', '.join(DECODERS)}")
        return self.queries == "steps"

    def embed(self, codes: Array) -> Array:
        """[b, l] -> embeddings [b, l, d], as `encode` gives them."""
        return self.fsq.embed(codes)

    def _check(self, velocities: Array, images: Array | None) -> None:
        if (images is not None) != self.images:
            raise UserError(
                f"the motion tokenizer was made {'for' if self.images else 'without'} images, and they were "
                f"{'not given' if self.images else 'given'}"
            )
        shape = (self.views, self.steps, self.points, 2)
        if velocities.shape[1:] != shape:
            raise UserError(
                f"the motion tokenizer was made for velocities [batch, views, steps, points, 2] with {shape} after the "
                f"batch axis; got {tuple(velocities.shape)}"
            )


class PointTail(nn.Module):
    """A step's token -> motion classes of every point of every view: the token plus a two-layer network of token, point
    and view, then a linear head.

    The network's first layer is three small products instead of one with the [b, v, t, n, 3 d] inputs side by side, and
    its second goes straight into the head (nothing lies between them): [b, v, t, n, d] is never there either."""

    views: int
    points: int
    classes: int
    hidden: int
    dim: int
    dtype: Dtype

    def setup(self) -> None:
        normal = nn.initializers.normal(1.0)
        self.of_points = self.param("points", normal, (self.points, self.dim))
        self.of_views = self.param("views", normal, (self.views, self.dim))
        self.fc1, self.fc2 = Affine(3 * self.dim, self.hidden), Affine(self.hidden, self.dim)
        self.head = Affine(self.dim, self.classes)

    def __call__(self, x: Array) -> Array:
        """[b, v or 1, t, d] -> [b, v, t, n, c] float32."""
        first, last, named, kernel = self._products(x)
        return _classes(first, last, named[:, None], kernel)

    def errors(self, x: Array, error: Error, targets: Array) -> Array:
        """[b, v or 1, t, d] and [b, v, ...] -> [b, v, t], one view after the other; see MotionTokenizer.errors."""
        first, last, named, kernel = self._products(x)

        @jax.checkpoint
        def of_view(at: tuple[Array, Array, Array, Array]) -> Array:
            first, last, named, targets = at
            return error(_classes(first, last, named, kernel), targets)

        views = [jnp.broadcast_to(y, (len(x), self.views, *y.shape[2:])).swapaxes(0, 1) for y in (first, last)]
        return jax.lax.map(of_view, (*views, named, targets.swapaxes(0, 1))).swapaxes(0, 1)

    def _products(self, x: Array) -> tuple[Array, Array, Array, Array]:
        """[b, ., t, d] -> of the tokens, [b, ., t, hidden] to the network and [b, ., t, c] to the head; of points and
        views, [v, n, hidden]; and the kernel of the network's second layer and the head together, [hidden, c]."""
        point, view = self.of_points.astype(self.dtype), self.of_views.astype(self.dtype)
        (w1, b1), (w2, b2), (wh, bh) = (
            [a.astype(self.dtype) for a in affine()] for affine in (self.fc1, self.fc2, self.head)
        )
        of_token, of_point, of_view = jnp.split(w1, 3)
        named = (point @ of_point)[None] + (view @ of_view)[:, None] + b1
        return x @ of_token, (x + b2) @ wh + bh, named, w2 @ wh


def _classes(first: Array, last: Array, named: Array, kernel: Array) -> Array:
    """[..., t, hidden], [..., t, c], [..., n, hidden] and [hidden, c] -> [..., t, n, c] float32."""
    hidden = nn.relu(first[..., None, :] + named)
    moved = hidden.reshape(-1, hidden.shape[-1]) @ kernel  # two matrices: see Linear
    return (moved.reshape(*hidden.shape[:-1], -1) + last[..., None, :]).astype(jnp.float32)


class Affine(nn.Module):
    """The matrix and the offset of a linear layer with PyTorch's default initialisation, for use by hand."""

    inputs: int
    outputs: int

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        init = uniform_by_fan_in(self.inputs)
        return self.param("kernel", init, (self.inputs, self.outputs)), self.param("bias", init, (self.outputs,))


class ForwardDynamics(nn.Module):
    """Images and a sentence -> the codes of the motion to come, one after the other. See the methods."""

    image_tokens: int  # of all views together, v p
    length: int  # l
    classes: int = 2048  # of the head: the nominal size of the codebook
    masked: bool = False  # classes that are no codes have no probability (the release gives them some)
    levels: tuple[int, ...] = (8, 8, 6, 5)
    dim: int = 768
    depth: int = 8
    heads: int = 8
    use_bias: bool = False
    dropout: float = 0.1
    dtype: Dtype = jnp.float32
    implementation: str = "matmul"
    remat: bool = False
    scan: bool = False

    @property
    def conditions(self) -> int:
        """Tokens before the codes: images and the sentence."""
        return self.image_tokens + 1

    def setup(self) -> None:
        self.image = Linear(self.dim, dtype=self.dtype)
        self.text = Linear(self.dim, dtype=self.dtype)
        self.start = self.param("start", nn.initializers.normal(1.0), (1, 1, self.dim))
        self.fsq = FSQ(self.levels, self.dim)
        self.trunk = Encoder(
            self.depth,
            self.heads,
            self.dim,
            self.conditions + self.length,
            self.dropout,
            self.use_bias,
            self.dtype,
            self.implementation,
            self.remat,
            self.scan,
        )
        self.head = Linear(self.classes, dtype=self.dtype)

    def condition(self, images: Array, text: Array) -> Array:
        """images: [b, v p, .] tokens, view by view; text: [b, .] the sentence's vector. -> [b, v p + 1, d]."""
        if images.shape[1] != self.image_tokens:
            raise UserError(f"forward dynamics expects {self.image_tokens} image tokens; got {images.shape[1]}")
        return jnp.concatenate([self.image(images), self.text(text)[:, None]], axis=1)

    def __call__(self, cond: Array, codes: Array, train: bool = False) -> tuple[Array, Array]:
        """Teacher forcing. cond: as `condition` gives it; codes: [b, l] the true ones. -> logits [b, l, classes]
        float32, where l sees only the codes before it, and the trunk's output [b, v p + 1 + l, d]. train: dropout."""
        out = self._forced(cond, codes, train, None)
        return self._classes(out[:, self.conditions :]), out

    def logits(self, cond: Array, codes: Array, train: bool = False) -> Array:
        """The same logits [b, l, classes] alone, for less work."""
        return self._classes(self._forced(cond, codes, train, self.length))

    def _forced(self, cond: Array, codes: Array, train: bool, last: int | None) -> Array:
        """The trunk's output [b, last or all, d] with the true codes before each place."""
        start = jnp.broadcast_to(self.start, (cond.shape[0], 1, self.dim)).astype(self.dtype)
        known = self.fsq.embed(codes[:, :-1]).astype(self.dtype)
        x = jnp.concatenate([cond.astype(self.dtype), start, known], axis=1)
        return self.trunk(x, jnp.asarray(self.mask()), train, last=last)[0]

    def generate(self, cond: Array, train: bool = False) -> tuple[Array, Array]:
        """Greedy decoding with a cache of keys and values. train: dropout, from the rng "dropout", drawn anew for each
        code but kept for what is in the cache. -> codes [b, l] int32, logits [b, l, classes] float32."""
        b, mask = cond.shape[0], jnp.asarray(self.mask())
        start = jnp.broadcast_to(self.start, (b, 1, self.dim)).astype(self.dtype)
        x = jnp.concatenate([cond.astype(self.dtype), start], axis=1)
        first = x.shape[1]
        out, cache = self.trunk(x, mask[:first], train, cache=self.trunk.empty_cache(b), last=1)
        code, logits = self._choose(out[:, -1])

        def step(module: ForwardDynamics, carry: tuple[Any, Array], at: Array) -> tuple[Any, tuple[Array, Array]]:
            cache, code = carry
            x = module.fsq.embed(code)[:, None]
            row = jax.lax.dynamic_slice_in_dim(mask, at, 1)
            out, cache = module.trunk(x, row, train, cache=cache, at=at)
            code, logits = module._choose(out[:, 0])
            return (cache, code), (code, logits)

        steps = nn.scan(step, variable_broadcast="params", split_rngs={"params": False, "dropout": True})
        _, (codes, more) = steps(self, (cache, code), first + jnp.arange(self.length - 1))
        codes, logits = jnp.concatenate([code[None], codes]), jnp.concatenate([logits[None], more])
        return codes.swapaxes(0, 1), logits.swapaxes(0, 1)

    def mask(self) -> np.ndarray:
        """[v p + 1 + l] squared: the conditions see each other, codes see the conditions and what came before."""
        length = self.conditions + self.length
        mask = np.tril(np.ones((length, length), bool))
        mask[:, : self.conditions] = True
        return mask

    def embed(self, codes: Array) -> Array:
        """[b, l] -> [b, l, d]: what inverse dynamics is given."""
        return self.fsq.embed(codes)

    def _classes(self, out: Array) -> Array:
        """[..., d] -> logits [..., classes] float32."""
        logits = self.head(out).astype(jnp.float32)
        if not self.masked:
            return logits
        return jnp.where(np.arange(self.classes) < codebook_size(self.levels), logits, jnp.finfo(jnp.float32).min)

    def _choose(self, out: Array) -> tuple[Array, Array]:
        """[b, d] -> the best code [b] and all logits [b, classes]."""
        logits = self._classes(out)
        return logits.argmax(-1).astype(jnp.int32), logits
