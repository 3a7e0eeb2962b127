"""What of mpi4py the trainer uses, between threads of one process: the logic of ranks without an MPI."""

import threading

import numpy as np

IN_PLACE = object()


class Ended(BaseException):
    """What MPI_Abort does to the other ranks."""


class World:
    def __init__(self, size):
        self.size = size
        self.lock = threading.Lock()
        self.calls = {}  # (communicator, number of the call): {rank: arguments}
        self.letters = set()  # (from, to, tag)
        self.aborted = None

    def run(self, function):
        """function(communicator) on every rank; the answers in order. Raises what rank 0 raises, else the next one."""
        answers, errors = [None] * self.size, [None] * self.size

        def work(rank):
            try:
                answers[rank] = function(Communicator(self, rank))
            except BaseException as error:
                errors[rank] = error

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = [error for error in errors if error is not None]
        for error in sorted(found, key=lambda error: isinstance(error, Ended)):
            raise error
        return answers


class Request:
    def __init__(self, comm, key, finish):
        self.comm, self.key, self.finish, self.done = comm, key, finish, False

    def Test(self):
        world = self.comm.world
        with world.lock:
            if world.aborted is not None:
                raise Ended(world.aborted)
            if not self.done and len(world.calls[self.key]) == world.size:
                self.finish(world.calls[self.key])
                self.done = True
        return self.done


class Sent:
    def Test(self):
        return True


class Done:
    def Test(self):
        return True


class Communicator:
    def __init__(self, world, rank, name=()):
        self.world, self.rank, self.name = world, rank, name
        self.count = self.copies = 0

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return self.world.size

    def Idup(self):
        self.copies += 1
        return Communicator(self.world, self.rank, (*self.name, self.copies)), Done()

    def _call(self, what, array, finish):
        key = (self.name, self.count)
        self.count += 1
        with self.world.lock:
            self.world.calls.setdefault(key, {})[self.rank] = (what, array.copy())

        def checked(given):
            kinds = {(what, array.shape, array.dtype) for what, array in given.values()}
            assert len(kinds) == 1, f"ranks do not call alike: {kinds}"
            finish([given[rank][1] for rank in range(self.world.size)])

        return Request(self, key, checked)

    def Iallreduce(self, send, receive):
        assert send is IN_PLACE
        assert receive.flags.c_contiguous

        def finish(given):
            receive[...] = sum(given[1:], given[0])

        return self._call("allreduce", receive, finish)

    def Iallgather(self, send, receive):
        return self._call(
            "allgather", send, lambda given: np.stack(given, out=receive.reshape(len(given), *send.shape))
        )

    def Ibcast(self, array, root):
        return self._call("bcast", array, lambda given: np.copyto(array, given[root]))

    def Isend(self, array, to, tag):
        with self.world.lock:
            self.world.letters.add((self.rank, to, tag))
        return Sent()

    def Iprobe(self, source, tag):
        with self.world.lock:
            return (source, self.rank, tag) in self.world.letters

    def Recv(self, array, source, tag):
        with self.world.lock:
            self.world.letters.remove((source, self.rank, tag))

    def Abort(self, status):
        with self.world.lock:
            self.world.aborted = status
        raise Ended(status)
