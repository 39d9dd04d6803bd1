"""As Airflow does it: OpenLineage events, sent by its own client to the sidecar instead of to Marquez.

A program that has OpenLineage already needs no code: OPENLINEAGE_URL=http://localhost:8000 is all.
"""

import os
from datetime import UTC, datetime
from uuid import uuid4

from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
from openlineage.client.facet_v2 import parent_run
from openlineage.client.transport.http import HttpConfig, HttpTransport


def main() -> None:
    url = os.environ.get("FABMON_URL", "http://localhost:8000")
    client = OpenLineageClient(transport=HttpTransport(HttpConfig(url=url)))
    dag, task = str(uuid4()), str(uuid4())
    of_dag = {"parent": parent_run.ParentRunFacet(parent_run.Run(dag), parent_run.Job("airflow", "yield_dag"))}

    def emit(state: RunState, run: Run, name: str) -> None:
        at = datetime.now(UTC).isoformat()
        client.emit(
            RunEvent(eventType=state, eventTime=at, run=run, job=Job("airflow", name), producer="https://example.org")
        )

    emit(RunState.START, Run(dag), "yield_dag")
    emit(RunState.START, Run(task, of_dag), "yield_dag.load")
    emit(RunState.COMPLETE, Run(task, of_dag), "yield_dag.load")
    emit(RunState.COMPLETE, Run(dag), "yield_dag")


if __name__ == "__main__":
    main()
