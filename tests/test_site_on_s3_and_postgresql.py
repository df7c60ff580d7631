"""A production site: packs in S3, rows and jobs in PostgreSQL; one study from receive to route, with a kill -9 on the way."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import text
from sqlmodel import select

from compliance.audit_checkpoint import keep_checkpoint, verify_log
from compliance.study import Study, instances_of_study, open_study_key
from crypto.vault import SealedObject
from gateway.application import Application, open_application
from gateway.config import Settings
from gateway.processing import original_of, study_key_of
from gateway.received import ReceivedStudy, distinct_instances
from gateway.store_scu import RemoteAe, store_all
from tests.builders import make_ct_study, part10_of, payload_of
from tests.postgres_server import postgres_server, postgres_url  # noqa: F401 (fixtures)
from tests.site_process import SiteProcess
from tests.test_vault import s3_endpoint  # noqa: F401 (fixture)
from worklist.workitem import ProcedureStep

pytestmark = [pytest.mark.interop, pytest.mark.slow]
_WAIT_SECONDS = 90.0


def test_study_goes_from_receive_to_route(tmp_path: Path, postgres_url: str, s3_endpoint: str) -> None:  # noqa: F811
    vault = {
        "kind": "s3",
        "bucket": "packs",
        "endpoint": s3_endpoint,
        "region": "us-east-1",
        "access_key_id": "test",
        "secret_access_key": "test",
    }
    settings = {"database_url": postgres_url, "vault": vault}
    site = SiteProcess(tmp_path / "data", tmp_path / "log", plaintext_port=0, settings=settings)
    datasets = make_ct_study(instances=3)
    site.start()
    try:
        site.wait_ready()
        _send(site, datasets[:2])
        # What was acknowledged may have neither row nor pack yet.
        site.kill()
        site.start()
        site.wait_ready()
        _send(site, datasets)
        app = open_application(tmp_path / "data", settings=Settings.model_validate({"law": {"demo_confirmations": True}, **settings}))
        try:
            study = _routed(app, len(datasets))
            # The row of a job says SUCCESS a moment after the study it routed is there.
            states = _job_states_at_rest(app)
            assert site.stop() == 0
            assert states == {"SUCCESS"}
            _check(app, study, datasets, s3_endpoint)
        finally:
            app.close()
    finally:
        if site.is_running:
            site.kill()


def _send(site: SiteProcess, datasets: list[Dataset]) -> None:
    host, port = site.addresses["dicom"][0]
    assert set(store_all([part10_of(dataset) for dataset in datasets], RemoteAe(host, port, "READGATE", "H1_PACS"))) == {0}


def _routed(app: Application, instance_count: int) -> Study:
    until = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < until:
        with app.database.reading() as session:
            study = session.exec(select(Study)).first()
            steps = session.exec(select(ProcedureStep)).all()
        if study is not None and study.instance_count == instance_count and len(steps) == 1:
            return study
        time.sleep(0.5)
    raise AssertionError("the study did not reach the worklist in time")


def _job_states_at_rest(app: Application) -> set[str]:
    states: set[str] = set()
    until = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < until:
        with app.database.engine.connect() as connection:
            states = set(connection.execute(text("SELECT DISTINCT status FROM dbos.workflow_status")).scalars().all())
        if not states & {"PENDING", "ENQUEUED"}:
            break
        time.sleep(0.2)
    return states


def _check(app: Application, study: Study, datasets: list[Dataset], endpoint: str) -> None:
    assert not app.database.is_sqlite and not list(app.data.glob("*.sqlite3*")) and not (app.data / "vault").exists()
    with app.database.reading() as session:
        received = session.exec(select(ReceivedStudy)).one()
        rows = distinct_instances(session, received.received_study_pk or 0)
        instances = instances_of_study(session, study.study_pk or 0)
    key = study_key_of(app, received.received_study_pk or 0)
    assert sorted(original_of(app, key, row).payload for row in rows) == sorted(payload_of(dataset) for dataset in datasets)
    study_key = open_study_key(app.keys, study)
    for one in instances:
        opened = app.vault.open(study_key, SealedObject(one.object_id, one.pack_name, one.pack_offset, one.sealed_length))
        assert len(opened) == one.payload_bytes
    names = {row.pack_name for row in rows} | {one.pack_name for one in instances}
    assert names <= {name for name, _ in app.vault.pack_names()} and _keys_in_bucket(endpoint)
    keep_checkpoint(app.database, app.log_signer, now=app.now())
    with app.database.reading() as session:
        assert verify_log(session, app.log_signer.public_key).is_sound


def _keys_in_bucket(endpoint: str) -> list[Any]:
    import boto3

    keys = {"region_name": "us-east-1", "aws_access_key_id": "test", "aws_secret_access_key": "test"}
    listed: list[Any] = boto3.client("s3", endpoint_url=endpoint, **keys).list_objects_v2(Bucket="packs").get("Contents", [])
    return listed
