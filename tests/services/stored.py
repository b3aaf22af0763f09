"""What the services keep of a line, read past Errata and MLflow: objects and ledger from S3, aliases from Postgres."""

from dataclasses import dataclass

import psycopg
from botocore.exceptions import ClientError
from deltalake import DeltaTable

from tests.races.checker import ALIASES_OF_A_LINE
from tests.services.conftest import Services

BUCKET, SNAPSHOTS, LEDGER = "errata", "snapshots/", "ledger"


@dataclass(frozen=True)
class Stored:
    """A place for `tests.races.checker`."""

    services: Services

    def read(self, key: str) -> bytes | None:
        try:
            return bytes(self.services.s3().get_object(Bucket=BUCKET, Key=SNAPSHOTS + key)["Body"].read())
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchKey":
                raise
            return None

    def keys(self, prefix: str) -> list[str]:
        pages = self.services.s3().get_paginator("list_objects_v2")
        listed = pages.paginate(Bucket=BUCKET, Prefix=SNAPSHOTS + prefix)
        return [item["Key"].removeprefix(SNAPSHOTS) for page in listed for item in page.get("Contents", [])]

    def ledger(self) -> DeltaTable:
        settings = self.services.settings
        options = {
            "AWS_ACCESS_KEY_ID": settings.s3_access_key,
            "AWS_SECRET_ACCESS_KEY": settings.s3_secret_key.get_secret_value(),
            "AWS_ENDPOINT_URL": settings.s3_endpoint_url or "",
            "AWS_ENDPOINT_URL_S3": settings.s3_endpoint_url or "",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }
        return DeltaTable(f"s3://{BUCKET}/{LEDGER}", storage_options=options)

    def aliases(self, line: str) -> dict[str, tuple[int, str]]:
        with psycopg.connect(self.services.place.database("mlflow", "postgresql")) as connection:
            rows = connection.execute(ALIASES_OF_A_LINE.replace("?", "%s"), (line,)).fetchall()
        return {alias: (int(number or 0), snapshot or "") for alias, number, snapshot in rows}
