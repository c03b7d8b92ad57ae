"""The launchers of a cluster among themselves."""

from __future__ import annotations

import socket
import time

import pytest

from src.launching.cluster import Cluster
from src.launching.nodes import Ending, Nodes


def node(number: int, address: tuple[str, int], nodes: int = 2, devices: int = 8) -> Nodes:
    """Return the connections of a node, the launchers' port being the one above the scheduler's."""
    return Nodes(Cluster(nodes, number, devices, address[0], address[1] - 1))


@pytest.fixture
def pair(address):
    """The connections of two nodes with eight devices each."""
    master, member = node(0, address), node(1, address)
    assert (master.missing(), member.missing()) == ([1], [0])
    poll(member, master)
    assert (master.missing(), member.missing()) == ([], [])
    yield master, member
    master.close()
    member.close()


def poll(*ends: Nodes) -> list[list[Ending]]:
    """Let the ends hear each other; return what each has heard."""
    heard = [[] for _ in ends]
    for _ in range(20):
        for one, end in zip(heard, ends):
            one += end.poll()
        time.sleep(0.01)
    return heard


@pytest.mark.parametrize("ending", [Ending(1, "rank 9 on node 1 was killed by SIGKILL"), Ending(130)])
def test_a_node_hears_how_the_job_ends_on_another(ending, pair):
    master, member = pair
    member.tell(ending)
    assert poll(master, member) == [[ending], []]
    master.tell(ending)
    assert poll(master, member) == [[], [ending]]


def test_a_node_whose_job_ends_before_it_has_connected_is_heard(address):
    master, member = node(0, address), node(1, address)
    member.tell(Ending(1, "rank 9 on node 1"))
    member.close()
    assert poll(master)[0][0] == Ending(1, "rank 9 on node 1")
    master.close()


def test_all_nodes_hear_how_the_job_ends_on_one(address):
    nodes = [node(number, address, nodes=3) for number in range(3)]
    poll(*nodes)
    nodes[2].tell(Ending(1, "rank 20 on node 2"))
    assert poll(*nodes) == [[Ending(1, "rank 20 on node 2")], [Ending(1, "rank 20 on node 2")], []]
    for end in nodes:
        end.close()


@pytest.mark.parametrize("gone", [0, 1])
def test_a_launcher_that_has_gone_is_noticed(gone, pair):
    pair[gone].close()
    message = f"the launcher of node {gone} has gone, or its host; the job was stopped"
    assert poll(pair[1 - gone]) == [[Ending(1, message)]]


def test_no_node_ends_before_the_workers_of_all_have_finished(pair):
    master, member = pair
    assert not master.all_finished()
    poll(master, member)
    assert not master.all_finished() and not member.all_finished()
    assert poll(master, member) == [[], []]
    assert master.all_finished() and not member.all_finished()
    master.close()
    assert poll(member) == [[]] and member.all_finished()


@pytest.mark.parametrize(
    "newcomer, message",
    [
        ((2, 3, 8), "--nnodes is 3 on node 2 and 2 on node 0"),
        ((1, 2, 4), "node 1 has 4 devices and node 0 has 8; give every node the same number with --devices"),
        ((1, 2, 8), "two hosts were started with --node_rank 1"),
    ],
)
def test_nodes_that_contradict_each_other_do_not_start(newcomer, message, pair, address):
    master, member = pair
    other = node(newcomer[0], address, *newcomer[1:])
    assert [heard[:1] for heard in poll(master, other, member)] == [[Ending(2, message)]] * 3
    other.close()


def test_a_stranger_on_the_launchers_port_does_no_harm(pair, address):
    master, member = pair
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"1\n", b'{"node": 3}\n', b'{"status": 1}\n', b""):
        with socket.create_connection(address) as stranger:
            stranger.sendall(said)
            assert poll(master, member) == [[], []]
