"""Random numbers of episode starts: a stream of its own for every (seed, environment, episode)."""

import numpy as np

_WORD = (1 << 64) - 1


class StartNoise:
    """Uniform and normal draws that depend on nothing but the seed, the environment's index and the episode's number.

    So environment i starts its episodes alike alone and among thousands, whatever else ends when, and the state of the
    generator is three integers. The generator is Philox (a function of a key and a counter): the key is
    (seed, environment), the counter starts at the episode's number times 2¹²⁸.

    References:
        Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """

    def __init__(self, num_uniform: int, num_normal: int) -> None:
        self._shape = (num_uniform, num_normal)
        self._bits = np.random.Philox(key=np.zeros(2, np.uint64))
        self._generator = np.random.Generator(self._bits)
        self._start = self._bits.state
        self._counter, self._key = self._start["state"]["counter"], self._start["state"]["key"]

    def draw(self, seed: int, worlds: np.ndarray, episodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draws for the start of one episode in each of some environments.

        Args:
            seed: Any integer; 64 bits count.
            worlds: Indices of the environments [k].
            episodes: Numbers of their episodes [k].

        Returns:
            Uniform draws from [0, 1) [k, num_uniform] and standard normal draws [k, num_normal].
        """
        uniform, normal = (np.empty((len(worlds), width)) for width in self._shape)
        self._key[0] = seed & _WORD
        for row, (world, episode) in enumerate(zip(worlds, episodes, strict=True)):
            self._key[1], self._counter[2] = world, episode
            self._bits.state = self._start
            self._generator.random(out=uniform[row])
            self._generator.standard_normal(out=normal[row])
        return uniform, normal
