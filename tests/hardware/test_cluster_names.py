"""Cluster names parse, files load, and everything that is not a cluster is refused with a remedy."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from apex_sim import catalogue
from apex_sim.errors import InputError, UnknownNameError
from apex_sim.hardware.cluster import Cluster, cluster_names, load_cluster
from apex_sim.hardware.device import device_names, load_device

CLUSTERS = catalogue.folder("hardware_profiles/clusters")


@pytest.mark.parametrize(
    ("text", "n_nodes", "n_per_node", "name"),
    [
        ("8xh100-sxm", 1, 8, "8xh100-sxm"),
        ("1x8xh100-sxm", 1, 8, "8xh100-sxm"),
        ("2x8xh100-sxm", 2, 8, "2x8xh100-sxm"),
        ("1xl40s", 1, 1, "1xl40s"),
        ("3x5xA100-SXM-80GB", 3, 5, "3x5xa100-sxm-80gb"),
        ("8Xb200", 1, 8, "8xb200"),
        ("8192x8xh200-sxm", 8192, 8, "8192x8xh200-sxm"),
        ("8xgb200", 1, 8, "8xgb200"),
        ("72xgb200", 1, 72, "72xgb200"),
        ("2x72xGB300", 2, 72, "2x72xgb300"),
        ("4x2xh100-nvl", 4, 2, "4x2xh100-nvl"),
    ],
)
def test_names_parse(text: str, n_nodes: int, n_per_node: int, name: str) -> None:
    cluster = load_cluster(text)
    assert (cluster.n_nodes, cluster.n_devices_per_node, cluster.name) == (n_nodes, n_per_node, name)
    assert cluster.n_devices == n_nodes * n_per_node
    assert cluster == load_cluster(name)
    assert cluster == pickle.loads(pickle.dumps(cluster))


@pytest.mark.parametrize("name", device_names())
def test_every_device_makes_a_cluster(name: str) -> None:
    cluster = load_cluster(f"2x{min(4, load_device(name).n_devices_per_node_max or 4)}x{name}")
    assert cluster.device.name == name
    assert 0 < cluster.intra_node.latency_s < cluster.inter_node.latency_s


def test_nvlink_inside_a_node_and_400_gigabit_between() -> None:
    cluster = load_cluster("2x8xh100-sxm")
    assert (cluster.intra_node.name, cluster.intra_node.bytes_per_s) == ("NVLink", 450e9)
    assert cluster.inter_node.bytes_per_s == 400e9 / 8
    assert cluster.intra_node.kind == "fitted"  # the latency's, weaker than the datasheet's bandwidth
    assert cluster.inter_node.kind == "assumed"
    assert "NCCL" in cluster.intra_node.source
    assert "datasheet" in cluster.intra_node.source


def test_pcie_where_the_device_has_no_nvlink() -> None:
    link = load_cluster("8xl40s").intra_node
    assert (link.name, link.bytes_per_s) == ("PCIe", 32e9)


def test_another_vendors_link_is_not_called_nvlink_and_its_latency_is_assumed() -> None:
    link = load_cluster("8xmi300x").intra_node
    assert (link.name, link.bytes_per_s, link.kind) == ("AMD scale-up link", 448e9, "assumed")
    assert "assumed equal to NVLink's" in link.source


def test_a_group_fills_a_node_before_the_next() -> None:
    cluster = load_cluster("4x8xh100-sxm")
    sizes = [(group.n_devices_per_node, group.n_nodes) for n in (1, 2, 8, 16, 32) if (group := cluster.group(n))]
    assert sizes == [(1, 1), (2, 1), (8, 1), (8, 2), (8, 4)]
    group = cluster.group(16)
    assert (group.n_devices, group.one_node) == (16, cluster.group(8))
    assert (group.intra_node, group.inter_node) == (cluster.intra_node, cluster.inter_node)
    for n in (0, -1, 33):
        with pytest.raises(InputError, match="Use 1 to 32"):
            cluster.group(n)
    with pytest.raises(InputError, match=r"12 devices fills nodes of 8 unevenly"):
        cluster.group(12)


def test_devices_of_a_node_share_its_network_links(tmp_path: Path) -> None:
    """Two 25 GB/s ports for 8 devices: 6.25 GB/s each when all send, all of a port for one or two."""
    text = (CLUSTERS / "hgx-h100-2-nodes.toml").read_text("utf-8")
    path = tmp_path / "shared.toml"
    path.write_text(text + '\n[inter_node.n_links_per_node]\nvalue = 2\nsource = "example"\nkind = "datasheet"\n')
    cluster = load_cluster(path)
    assert cluster.inter_node.n_per_node == 2
    assert "links of a node: example" in cluster.inter_node.source
    assert cluster.inter_node.kind == "assumed"  # the weakest of the three
    assert [cluster.inter_node.shared_by(n).bytes_per_s for n in (1, 2, 4, 8)] == [25e9, 25e9, 12.5e9, 6.25e9]
    assert cluster.group(16).inter_node.bytes_per_s == 6.25e9
    path.write_text(
        text.replace("[intra_node.latency_s]", "[intra_node.n_links_per_node]\nvalue = 2\n[intra_node.latency_s]")
    )
    with pytest.raises(UnknownNameError, match="n_links_per_node"):
        load_cluster(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("16xh100-sxm", r"16 devices in one node.*holds 8.*Write NxMxDEVICE, as in 2x8xh100-sxm"),
        ("2x12xh100-sxm", r"12 devices in one node.*as in 3x8xh100-sxm"),
        ("65536xh100-sxm", r"as in 8192x8xh100-sxm"),
        ("73xgb200", r"device 'gb200', key 'n_devices_per_node_max'.*holds 72.*as in 2x72xgb200"),
        ("8xh100-nvl", r"largest node holds 2.*as in 4x2xh100-nvl"),
        ("2xgh200", r"largest node holds 1.*as in 2x1xgh200"),
        ("0xh100-sxm", r"count '0'.*2x8xh100-sxm"),
        ("0x8xh100-sxm", "count '0'"),
        ("2x0xh100-sxm", "count '0'"),
        ("08xh100-sxm", "count '08'"),
        ("02x8xh100-sxm", "count '02'"),
        ("8193x8xh100-sxm", r"65544 devices.*at most 65536"),
        ("65537xh100-sxm", "count '65537'"),
        ("99999999999999xh100-sxm", "count '999999999999'"),
        ("9" * 5000 + "xh100-sxm", "count '999999999999'"),
        ("2x9" + "9" * 5000 + "xh100-sxm", "count '999999999999'"),
    ],
)
def test_bad_counts_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_cluster(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "h100-sxm",
        "8",
        "8x",
        "xh100-sxm",
        "8h100-sxm",
        "-8xh100-sxm",
        "8.5xh100-sxm",
        "8 xh100-sxm",
        "٨xh100-sxm",
    ],
)
def test_bad_syntax_gives_examples(text: str) -> None:
    with pytest.raises(InputError, match=r"8xh100-sxm.*2x8xh100-sxm"):
        load_cluster(text)


@pytest.mark.parametrize(
    ("text", "nearest"),
    [("8xh100-smx", "h100-sxm"), ("2x8xh20-sxm", "h200-sxm"), ("2x8x4xl40s", "l40s"), ("8x h100-sxm", "h100-sxm")],
)
def test_unknown_device_offers_the_nearest(text: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown device.*'{nearest}'"):
        load_cluster(text)


def test_named_cluster() -> None:
    assert cluster_names() == ["gb200-nvl72", "hgx-h100-2-nodes"]
    cluster = load_cluster("HGX-H100-2-nodes")
    assert (cluster.name, cluster.device.name, cluster.n_devices) == ("hgx-h100-2-nodes", "h100-sxm", 16)
    assert cluster.group(16).inter_node.bytes_per_s == 25e9
    with pytest.raises(UnknownNameError, match="Did you mean 'hgx-h100-2-nodes'"):
        load_cluster("hgx-h100-2-node")
    with pytest.raises(UnknownNameError):
        load_cluster("default")


def test_a_rack_is_one_node() -> None:
    rack = load_cluster("gb200-nvl72")
    assert (rack.device.name, rack.n_nodes, rack.n_devices) == ("gb200", 1, 72)
    assert rack.group(72).n_nodes == 1
    assert rack.intra_node.bytes_per_s == load_cluster("72xgb200").intra_node.bytes_per_s == 900e9


def test_device_file_in_a_cluster_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes((catalogue.folder("hardware_profiles/devices") / "l40s.toml").read_bytes())
    assert load_cluster(f"4x{path}").name == "4xmine"


def edited(tmp_path: Path, old: str, new: str) -> Path:
    text = (CLUSTERS / "hgx-h100-2-nodes.toml").read_text("utf-8")
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1), "utf-8")
    return path


def test_editing_a_file_changes_the_cluster(tmp_path: Path) -> None:
    path = edited(tmp_path, "value = 2\n", "value = 3\n")
    for spelled in (path, str(path)):
        assert load_cluster(spelled).n_devices == 24


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("value = 25e9", "value = 25", "'inter_node.bytes_per_s.value': 25 is not plausible.*50e9"),
        ("value = 5.0e-6", "value = 5.0", "'inter_node.latency_s.value': 5 is not plausible.*2.7e-6"),
        ("value = 2\n", "value = 0\n", "'n_nodes.value': 0 is not plausible"),
        ("value = 2\n", "value = 2.5\n", "whole number"),
        ("value = 2\n", "value = 65536\n", "524288 devices"),
        ('device = "h100-sxm"', 'device = "h100"', "unknown device 'h100'"),
        ("[inter_node]", "[network]", "unknown key 'network'|inter_node"),
        ('source = "the choice of this example"', "", "'n_nodes.source': missing"),
    ],
)
def test_bad_cluster_file_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = edited(tmp_path, old, new)
    with pytest.raises(InputError, match=message):
        load_cluster(path)


def test_missing_cluster_file() -> None:
    with pytest.raises(InputError, match="no cluster file there"):
        load_cluster("clusters/nothing.toml")


def test_a_cluster_made_in_python_is_checked_too() -> None:
    cluster: Cluster = load_cluster("8xh100-sxm")
    with pytest.raises(InputError, match="no devices"):
        replace(cluster, n_nodes=0)


@pytest.mark.parametrize(
    ("text", "name", "pools"),
    [
        ("8xh100-sxm+16x1xl40s", "8xh100-sxm+16x1xl40s", ["8xh100-sxm", "16x1xl40s"]),
        ("1x4xL40S+2X8xB200+8xh100-sxm", "4xl40s+2x8xb200+8xh100-sxm", ["4xl40s", "2x8xb200", "8xh100-sxm"]),
        ("HGX-H100-2-nodes+8xl40s", "hgx-h100-2-nodes+8xl40s", ["hgx-h100-2-nodes", "8xl40s"]),
    ],
)
def test_a_park_parses_prints_and_round_trips(text: str, name: str, pools: list[str]) -> None:
    park = load_cluster(text)
    assert park.name == name
    assert park.pools == tuple(load_cluster(pool) for pool in pools)
    assert [park.pool(pool.device.name) for pool in park.pools] == list(park.pools)
    assert park == load_cluster(park.name) == pickle.loads(pickle.dumps(park))
    assert park.n_devices == park.pools[0].n_devices
    assert park.n_devices_in_all == sum(pool.n_devices for pool in park.pools)
    assert park.group(4) == park.pools[0].group(4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8xh100-sxm+8xh100-sxm", r"pools of h100-sxm, h100-sxm. Give each device one pool"),
        ("8xh100-sxm+hgx-h100-2-nodes", r"pools of h100-sxm, h100-sxm"),
        ("8192x8xh100-sxm+1xl40s", r"65537 devices. Use at most 65536"),
        ("8xh100-sxm+", r"unknown cluster ''"),
        ("8xh100-sxm+l40s", r"unknown cluster 'l40s'.*8xh100-sxm"),
        ("8xh100-sxm+8xl40", r"unknown device 'l40'.*'l40s'"),
        ("8xh100-sxm+0xl40s", r"count '0'"),
    ],
)
def test_a_bad_park_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_cluster(text)


def test_a_pool_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(UnknownNameError, match=r"cluster '8xh100-sxm\+8xl40s': unknown pool 'l4'. Did you mean 'l40s'"):
        load_cluster("8xh100-sxm+8xl40s").pool("l4")
    with pytest.raises(InputError, match="one pool"):
        replace(load_cluster("8xb200"), others=(load_cluster("8xh100-sxm+8xl40s"),))
