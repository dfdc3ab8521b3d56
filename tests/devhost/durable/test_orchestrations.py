"""Orchestrators of the unmodified SDK, end to end through the engine."""

from .conftest import Host, output


async def test_a_fan_out_returns_the_results_in_the_order_of_the_tasks(host: Host) -> None:
    assert output(await host.run("fan_out", 20)) == sum(range(20)) * 2
