"""Networks an operator vouches for: written strictly, and one bad row keeps nobody out."""

from __future__ import annotations

from pathlib import Path

import pytest

from compliance.principal import RegisteredNetwork, country_of_address
from crypto.errors import BadInput
from gateway.enrolment import add_network
from tests.gateway_site import gateway_site


def test_a_network_is_written_strictly_and_a_bad_row_vouches_for_nothing(tmp_path: Path) -> None:
    with gateway_site(tmp_path / "data", has_study=False) as site:
        for cidr in ("10.0.0.1/8", "ten", "", "10.0.0.0/33", "10.0.0.0/8 "):
            with pytest.raises(BadInput):
                add_network(site.app, "op", RegisteredNetwork(cidr=cidr, country="DE"))
        add_network(site.app, "op", RegisteredNetwork(cidr="10.0.0.0/8", country="DE"))
        with site.app.database.transaction() as session:
            session.add(RegisteredNetwork(cidr="10.0.0.1/8", country="FR"))
            session.flush()
            assert country_of_address(session, "po", "10.1.2.3") == ("DE", "BUSINESS")
        site.log_in("po")
