"""What does a worker process do?  It is given its work once, then items, until its parent is gone."""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread

import cloudpickle

from apex_sim.planner.execution.message import Message, bytes_of, done, failed


def serve(connection: Connection) -> None:
    """Do work as the parent at the other end of `connection` asks, one item at a time.

    Ctrl-C is the parent's business, who stops its workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    inbox: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_listen, args=(connection, inbox), daemon=True).start()
    connection.send_bytes(bytes_of(Message("up")))
    try:
        work = cloudpickle.loads(inbox.get())
    except Exception as error:
        connection.send_bytes(bytes_of(failed("unusable", error)))
        return
    while True:
        connection.send_bytes(bytes_of(done(work, cloudpickle.loads(inbox.get()))))


def _listen(connection: Connection, inbox: SimpleQueue[bytes]) -> None:
    """Pass on what the parent sends, and end this process, whatever it is doing, when the parent is gone."""
    try:
        while True:
            inbox.put(connection.recv_bytes())
    except (EOFError, OSError):
        os._exit(0)
