"""/metrics counts work from the rows, names nobody, and answers only the networks the configuration names."""

from __future__ import annotations

from pathlib import Path

from starlette.testclient import TestClient

from tests.gateway_site import gateway_site


def test_metrics_count_work_and_name_nobody(tmp_path: Path) -> None:
    with gateway_site(tmp_path / "data") as site:
        study_instance_uid = site.study_instance_uid
        answer = site.anonymous().get("/metrics")
        assert answer.status_code == 200
        assert 'readgate_procedure_steps{hospital="h1",state="SCHEDULED"} 1.0' in answer.text
        assert 'readgate_received_studies{hospital="h1",state="AVAILABLE"} 1.0' in answer.text
        assert study_instance_uid not in answer.text and site.study.patient_pseudonym not in answer.text


def test_metrics_are_not_there_for_other_networks(tmp_path: Path) -> None:
    with gateway_site(tmp_path / "data") as site:
        outsider = TestClient(site.http, client=("192.0.2.7", 50000))
        assert outsider.get("/metrics").status_code == 404
